#include "app/wiring.h"

#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "app/auth_keys.h"
#include "app/metrics_exporter.h"
#include "base/address.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "codec/plugin_engine.h"
#include "flow/affinity.h"
#include "pipeline/data_plane.h"
#include "rpc/unix_socket.h"
#include "server/control_server.h"
#include "server/engines.h"
#include "server/side_channel.h"
#include "store/store_table.h"

namespace shadowserve {
namespace {

// How long loads under way may take to finish at SIGTERM.
constexpr int64_t kDrainNs = 5 * kNsPerSecond;

// Connections to the control socket that wait to be accepted.
constexpr int kBacklog = 64;

int64_t ToNs(double seconds) {
  return static_cast<int64_t>(seconds * static_cast<double>(kNsPerSecond));
}

AllowedUids Uids(const Config& config) {
  AllowedUids allowed{config.listen_any_uid, {0, geteuid()}};
  allowed.uids.insert(allowed.uids.end(), config.listen_uids.begin(), config.listen_uids.end());
  return allowed;
}

Result<uint64_t> RandomIncarnation() {
  uint64_t value = 0;
  if (getrandom(&value, sizeof(value), 0) != sizeof(value)) {
    return Status(StatusCode::kUnavailable, "the kernel gives no random bytes");
  }
  return value;
}

class WiredDaemon final : public Daemon {
 public:
  ~WiredDaemon() override { Stop(); }

  Status Start(const Config& config, bool control_path_only) {
    // Before any thread exists: gRPC's and the store's threads inherit it, so that nothing of the
    // data plane ever runs on the engine's cores.
    SS_TRY(PinThisThread(config.cores));
    // Before the store: a bad file must not leave anything behind.
    if (!config.auth_key_file.empty()) {
      SS_TRY_ASSIGN(keys_, ReadAuthKeys(config.auth_key_file));
    }
    ControlServer::Options server_options;
    SS_TRY_ASSIGN(server_options.tls, ReadTlsFiles(config.tls));
    SS_TRY(OpenCodecEngine(config));
    StoreOptions store_options;
    store_options.cpus = config.cores;
    store_options.servers = &metrics_.store_servers;
    SS_TRY_ASSIGN(std::unique_ptr<Store> store, OpenStore(config.store_url, store_options));
    ServerFacts facts;
    facts.store = store->Describe();
    facts.form = StoredForm{config.codec_profile, config.codec_lossless};
    facts.start_ns = clock_.NowNs();

    SS_TRY_ASSIGN(const Address listen, ParseAddress(config.listen));
    Engines::Options engine_options;
    engine_options.head_groups = config.head_groups;
    engine_options.form = facts.form;
    engine_options.deadline_max_ns = ToNs(config.fetch_deadline_s);
    SS_TRY_ASSIGN(engine_options.incarnation, RandomIncarnation());
    if (!listen.path.empty()) engine_options.side_socket = SideSocketPath(listen.path);
    const SideServerOptions side_options{engine_options.side_socket, engine_options.incarnation,
                                         static_cast<mode_t>(config.listen_mode), &clock_};
    engines_ = std::make_unique<Engines>(engine_options, &metrics_, &clock_);
    SS_TRY(StartPlane(config, control_path_only, std::move(store)));
    SS_TRY(StartMetrics(config));
    server_options.listen = listen;
    server_options.uids = Uids(config);
    if (!listen.path.empty()) {
      // First of all sockets: who connects waits until the rest is there.
      Result<std::unique_ptr<UnixListener>> listener = UnixListener::Listen(
          {listen.path, SOCK_STREAM, static_cast<mode_t>(config.listen_mode), kBacklog});
      if (!listener.ok()) return std::move(listener).status().WithContext("listen");
      server_options.listener = std::move(listener).value();
    } else if (config.tls.empty()) {
      Log(LogLevel::kWarn, "listen: {} has neither encryption nor access control", config.listen);
    }
    SS_TRY(StartSide(side_options, server_options.uids));
    SS_TRY_ASSIGN(server_, ControlServer::Start(std::move(server_options), std::move(facts),
                                                engines_.get(), plane_.get(), &metrics_, &clock_));
    return OkStatus();
  }

  std::string address() const override { return server_->address(); }

  void Stop() override {
    exporter_.reset();
    if (server_ != nullptr) server_->Stop(kDrainNs);
    side_.reset();
    if (plane_ != nullptr) plane_->Stop();
    server_.reset();
    plane_.reset();
    codec_engine_.reset();
  }

 private:
  Status OpenCodecEngine(const Config& config) {
    if (config.codec_engine != kCompressdevEngine) return OkStatus();
    SS_TRY_ASSIGN(codec_engine_, OpenPluginEngine({.library = config.codec_engine_library,
                                                   .device = config.codec_engine_device,
                                                   .queues = DataPlane::Threads(config.cores),
                                                   .depth = EnginePort::kDepthMax}));
    const EngineLimits limits = codec_engine_->limits();
    Log(LogLevel::kInfo, "codec engine {}: {} operations of up to {} bytes for each thread",
        codec_engine_->Describe(), limits.depth, limits.op_bytes_max);
    if (config.codec_lossless != CodecId::kDeflate) {
      Log(LogLevel::kWarn,
          "codec.lossless is {}: what engines save by default is not for the codec engine, which "
          "decodes deflate",
          CodecName(config.codec_lossless));
    }
    return OkStatus();
  }

  Status StartPlane(const Config& config, bool control_path_only, std::unique_ptr<Store> store) {
    DataPlane::Options options;
    options.slab_bytes = config.slab_size;
    options.fetch_slabs = config.fetch_slabs();
    options.save_slabs = config.save_slabs();
    options.fetch.joins_inflight_max = config.store_max_inflight;
    options.fetch.control_path_only = control_path_only;
    options.fetch.engine = codec_engine_.get();
    options.cpus = config.cores;
    options.keys = std::move(keys_);
    options.cipher = config.auth_cipher;
    options.quota = {config.quota_tenant_bytes, ToNs(config.quota_window_s)};
    SS_TRY_ASSIGN(plane_,
                  DataPlane::Create(options, std::move(store), &metrics_, &clock_, engines_.get()));
    engines_->Bind(plane_.get(), nullptr);
    plane_->Start();
    return OkStatus();
  }

  // Before the first session can come, which may ask for it.
  Status StartSide(const SideServerOptions& options, const AllowedUids& uids) {
    if (options.path.empty()) return OkStatus();
    SS_TRY_ASSIGN(side_, SideChannel::Start(options, uids));
    engines_->Bind(plane_.get(), side_.get());
    return OkStatus();
  }

  Status StartMetrics(const Config& config) {
    if (config.metrics_listen.empty()) return OkStatus();
    const auto refresh = [this](Metrics& metrics) {
      const auto set = [&metrics](PoolLabel label, const SlabPool& pool) {
        metrics.slabs[label][SlabStateLabel::kFree].Set(pool.free_count());
        metrics.slabs[label][SlabStateLabel::kUsed].Set(int64_t{pool.slab_count()} -
                                                        pool.free_count());
      };
      set(PoolLabel::kFetch, plane_->fetch_slabs());
      set(PoolLabel::kSave, plane_->save_slabs());
      // A full mailbox leaves the store's gauges as they were.
      (void)plane_->Post([this] {
        const StoreStats stats = plane_->store().Stats();
        metrics_.store_objects.Set(static_cast<int64_t>(stats.objects));
        metrics_.store_bytes.Set(static_cast<int64_t>(stats.bytes));
      });
    };
    SS_TRY_ASSIGN(exporter_, MetricsExporter::Start(config.metrics_listen, metrics_, refresh));
    Log(LogLevel::kInfo, "metrics on port {}", exporter_->port());
    return OkStatus();
  }

  SteadyClock clock_;
  Metrics metrics_;
  std::vector<AuthKey> keys_;                  // until the data plane has them
  std::unique_ptr<BlockEngine> codec_engine_;  // null: software
  std::unique_ptr<Engines> engines_;
  std::unique_ptr<DataPlane> plane_;
  std::unique_ptr<SideChannel> side_;
  std::unique_ptr<ControlServer> server_;
  std::unique_ptr<MetricsExporter> exporter_;
};

}  // namespace

Result<std::unique_ptr<Daemon>> Daemon::Start(const Config& config, bool control_path_only) {
  auto daemon = std::make_unique<WiredDaemon>();
  SS_TRY(daemon->Start(config, control_path_only));
  return std::unique_ptr<Daemon>(std::move(daemon));
}

}  // namespace shadowserve
