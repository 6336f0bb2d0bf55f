// For tests: a whole data plane in this process, on Unix sockets in a folder of its own.
#ifndef SHADOWSERVE_SERVER_SERVED_PLANE_TESTING_H_
#define SHADOWSERVE_SERVER_SERVED_PLANE_TESTING_H_

#include <grpcpp/channel.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "base/metrics.h"
#include "rpc/channel.h"
#include "rpc/control.grpc.pb.h"
#include "rpc/side_socket.h"
#include "server/control_server.h"
#include "server/engines.h"
#include "server/side_channel.h"
#include "store/store_table.h"

namespace shadowserve::testing {

class TempFolder {
 public:
  TempFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "ssXXXXXX").string();
    if (::mkdtemp(name.data()) != nullptr) path_ = name;
  }
  ~TempFolder() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// As app/wiring.cc does it, small.
struct ServedPlane {
  TempFolder folder;
  SteadyClock steady;
  ManualClock gate_clock;  // of the control socket alone
  Metrics metrics;
  Address address;
  std::unique_ptr<Engines> engines;
  std::unique_ptr<DataPlane> plane;
  std::unique_ptr<SideChannel> side;
  std::unique_ptr<ControlServer> server;

  explicit ServedPlane(AllowedUids uids, const TenantQuota::Options& quota = {}) {
    address.path = folder.path() + "/s";
    Engines::Options options;
    options.form = StoredForm{Profile::kLossless, CodecId::kZstd};
    options.incarnation = 1;
    options.side_socket = SideSocketPath(address.path);
    engines = std::make_unique<Engines>(options, &metrics, &steady);
    DataPlane::Options sizes;
    sizes.slab_bytes = uint64_t{2} << 20;
    sizes.fetch_slabs = 8;
    sizes.save_slabs = 8;
    sizes.quota = quota;
    plane = DataPlane::Create(sizes, OpenStore("memory://?capacity=64MiB", {}).value(), &metrics,
                              &steady, engines.get())
                .value();
    side = SideChannel::Start({options.side_socket, 1, 0600, &steady}, uids).value();
    engines->Bind(plane.get(), side.get());
    plane->Start();
    ControlServer::Options listen;
    listen.listen = address;
    listen.uids = std::move(uids);
    listen.listener = UnixListener::Listen({address.path, SOCK_STREAM, 0600, 64}).value();
    server = ControlServer::Start(std::move(listen), ServerFacts{}, engines.get(), plane.get(),
                                  &metrics, &gate_clock)
                 .value();
  }
  ~ServedPlane() {
    server->Stop(0);
    side.reset();
    plane->Stop();
  }

  std::unique_ptr<v1::Control::Stub> Connect() const {
    return v1::Control::NewStub(MakeChannel(address));
  }
};

}  // namespace shadowserve::testing

#endif  // SHADOWSERVE_SERVER_SERVED_PLANE_TESTING_H_
