// shadowserve._core: the client library for Python. The contract is shadowserve/_core.pyi.
//
// Only translation: arguments are read with the GIL held, every call into the library runs without
// it, errors become Refused. Token and page lists are read item by item through the C API: a prompt
// has tens of thousands of them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "client/fingerprint.h"
#include "client/kv_manager.h"
#include "client/kv_worker.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shadowserve {
namespace {

// An error on its way to Python: the one exception of this project, at its outermost edge.
struct RefusedError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

[[noreturn]] void Refuse(const Status& status) {
  throw RefusedError(std::string(status.message()));
}

template <typename T>
T Unwrap(Result<T> result) {
  if (!result.ok()) Refuse(result.status());
  return std::move(result).value();
}

nb::bytes ToBytes(std::string_view text) {
  return nb::bytes(text.data(), text.size());
}
nb::bytes ToBytes(const Digest& digest) {
  return nb::bytes(digest.data(), digest.size());
}

std::vector<uint32_t> ReadNumbers(nb::handle sequence) {
  const nb::object fast =
      nb::steal(PySequence_Fast(sequence.ptr(), "expected a sequence of integers"));
  if (!fast.is_valid()) throw nb::python_error();
  const Py_ssize_t count = PySequence_Size(fast.ptr());
  const bool is_list = PyList_Check(fast.ptr()) != 0;
  std::vector<uint32_t> numbers(static_cast<size_t>(count));
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* const item =
        is_list ? PyList_GetItem(fast.ptr(), i) : PyTuple_GetItem(fast.ptr(), i);  // borrowed
    if (item == nullptr) throw nb::python_error();
    const unsigned long value = PyLong_AsUnsignedLong(item);
    if (value == static_cast<unsigned long>(-1) && PyErr_Occurred() != nullptr) {
      throw nb::python_error();
    }
    if (value > std::numeric_limits<uint32_t>::max()) {
      throw nb::value_error("a token or page id does not fit 32 bits");
    }
    numbers[static_cast<size_t>(i)] = static_cast<uint32_t>(value);
  }
  return numbers;
}

std::string ReadBytes(nb::handle object) {
  const auto bytes = nb::cast<nb::bytes>(object);
  return {static_cast<const char*>(bytes.data()), bytes.size()};
}

std::vector<std::string> ReadParts(nb::sequence parts) {
  std::vector<std::string> result;
  for (const nb::handle part : parts) result.push_back(ReadBytes(part));
  return result;
}

std::vector<KeyExtra> ReadExtras(nb::sequence extras) {
  std::vector<KeyExtra> result;
  for (const nb::handle extra : extras) {
    const auto pair = nb::cast<nb::tuple>(extra);
    if (pair.size() != 2) throw nb::value_error("an extra is a pair (position, bytes)");
    result.push_back({nb::cast<uint64_t>(pair[0]), ReadBytes(pair[1])});
  }
  return result;
}

// A mapping of options: every key that is taken is required, every other one is refused.
class Options {
 public:
  explicit Options(nb::handle mapping) {
    if (PyMapping_Check(mapping.ptr()) == 0) throw RefusedError("options are no mapping");
    const nb::object items = nb::steal(PyMapping_Items(mapping.ptr()));
    if (!items.is_valid()) throw nb::python_error();
    for (const nb::handle item : items) {
      const auto pair = nb::cast<nb::tuple>(item);
      values_[nb::cast<std::string>(pair[0])] = pair[1];
    }
  }

  nb::object TakeObject(const char* key) {
    const auto found = values_.find(key);
    if (found == values_.end()) throw RefusedError(std::string(key) + " is missing");
    nb::object value = found->second;
    values_.erase(found);
    return value;
  }

  template <typename T>
  T Take(const char* key) {
    const nb::object value = TakeObject(key);
    T result{};
    if (!nb::try_cast(value, result)) {
      throw RefusedError(std::string(key) + " has a wrong type or is out of range: " +
                         nb::cast<std::string>(nb::repr(value)));
    }
    return result;
  }

  void Finish() const {
    if (!values_.empty()) throw RefusedError(values_.begin()->first + " is no known option");
  }

 private:
  std::map<std::string, nb::object> values_;
};

ModelShape TakeShape(Options& options) {
  ModelShape shape;
  shape.layers = options.Take<uint32_t>("layers");
  shape.kv_heads = options.Take<uint32_t>("kv_heads");
  shape.head_dim = options.Take<uint32_t>("head_dim");
  shape.dtype = Unwrap(ParseDtype(options.Take<std::string>("dtype")));
  return shape;
}

TlsFiles TakeTls(Options& options) {
  return {options.Take<std::string>("tls_ca_file"), options.Take<std::string>("tls_cert_file"),
          options.Take<std::string>("tls_key_file")};
}

Digest TakeRoot(Options& options) {
  const nb::object value = options.TakeObject("root");
  nb::bytes bytes;
  if (!nb::try_cast(value, bytes) || bytes.size() != sizeof(Digest)) {
    throw RefusedError("root: takes 32 bytes");
  }
  Digest root;
  std::memcpy(root.data(), bytes.data(), root.size());
  return root;
}

std::unique_ptr<KvManager> MakeManager(nb::handle mapping) {
  Options taken(mapping);
  KvManagerOptions options;
  options.data_plane = taken.Take<std::string>("data_plane");
  options.tls = TakeTls(taken);
  options.engine_id = taken.Take<std::string>("engine_id");
  options.root = TakeRoot(taken);
  options.shape = TakeShape(taken);
  options.page_tokens = taken.Take<uint32_t>("page_tokens");
  options.world_size = taken.Take<uint32_t>("world_size");
  options.profile = taken.Take<std::string>("profile");
  options.lookup_timeout_s = taken.Take<double>("lookup_timeout_s");
  options.fetch_deadline_s = taken.Take<double>("fetch_deadline_s");
  options.save_deadline_s = taken.Take<double>("save_deadline_s");
  options.min_hit_tokens = taken.Take<uint32_t>("min_hit_tokens");
  options.save = taken.Take<bool>("save");
  options.early_write = taken.Take<bool>("early_write");
  options.max_load_tokens = taken.Take<uint64_t>("max_load_tokens");
  taken.Finish();
  const nb::gil_scoped_release released;
  return Unwrap(KvManager::Create(std::move(options)));
}

std::unique_ptr<KvWorker> MakeWorker(nb::handle mapping) {
  Options taken(mapping);
  KvWorkerOptions options;
  options.data_plane = taken.Take<std::string>("data_plane");
  options.tls = TakeTls(taken);
  options.engine_id = taken.Take<std::string>("engine_id");
  options.rank = taken.Take<uint32_t>("rank");
  options.world_size = taken.Take<uint32_t>("world_size");
  options.shape = TakeShape(taken);
  options.devices = taken.Take<std::vector<std::string>>("devices");
  options.fetch_deadline_s = taken.Take<double>("fetch_deadline_s");
  taken.Finish();
  const nb::gil_scoped_release released;
  return Unwrap(KvWorker::Create(std::move(options)));
}

PlaneStride TakePlane(Options& options, const char* key) {
  using Triple = std::vector<uint64_t>;
  const nb::object value = options.TakeObject(key);
  Triple triple;
  if (!nb::try_cast(value, triple) || triple.size() != 3) {
    throw RefusedError(std::string(key) + ": takes (offset, token_stride, dim_stride)");
  }
  return {triple[0], triple[1], triple[2]};
}

PageLayout ReadLayout(nb::handle mapping, KvDtype dtype) {
  Options taken(mapping);
  PageLayout layout;
  layout.dtype = dtype;
  layout.page_tokens = taken.Take<uint32_t>("page_tokens");
  layout.page_count = taken.Take<uint64_t>("page_count");
  layout.first_layer = taken.Take<uint32_t>("first_layer");
  layout.layer_offset = taken.Take<std::vector<uint64_t>>("layer_offset");
  layout.first_head = taken.Take<uint32_t>("first_head");
  layout.heads = taken.Take<uint32_t>("heads");
  layout.head_dim = taken.Take<uint32_t>("head_dim");
  layout.page_stride = taken.Take<uint64_t>("page_stride");
  layout.head_stride = taken.Take<uint64_t>("head_stride");
  layout.k = TakePlane(taken, "k");
  layout.v = TakePlane(taken, "v");
  taken.Finish();
  return layout;
}

// What Python holds. The library object goes without the GIL: its threads may be ending.
class PyManager {
 public:
  explicit PyManager(nb::handle options) : manager_(MakeManager(options)) {}
  ~PyManager() { Close(); }
  PyManager(const PyManager&) = delete;
  PyManager& operator=(const PyManager&) = delete;

  KvManager& get() { return *manager_; }
  void Close() {
    const nb::gil_scoped_release released;
    manager_->Close();
  }

 private:
  const std::unique_ptr<KvManager> manager_;
};

class PyWorker {
 public:
  explicit PyWorker(nb::handle options) : worker_(MakeWorker(options)) {
    dtype_ = worker_->dtype();
  }
  ~PyWorker() { Close(); }
  PyWorker(const PyWorker&) = delete;
  PyWorker& operator=(const PyWorker&) = delete;

  KvWorker& get() { return *worker_; }
  KvDtype dtype() const { return dtype_; }
  void Close() {
    const nb::gil_scoped_release released;
    worker_->Close();
  }

 private:
  const std::unique_ptr<KvWorker> worker_;
  KvDtype dtype_ = KvDtype::kBf16;
};

void AddRequest(PyManager& self, const std::string& request_id, nb::handle tokens,
                nb::sequence extras, nb::sequence parts, nb::bytes salt) {
  const std::vector<uint32_t> numbers = ReadNumbers(tokens);
  std::vector<KeyExtra> read_extras = ReadExtras(extras);
  const std::vector<std::string> read_parts = ReadParts(parts);
  const std::string read_salt = ReadBytes(salt);
  const nb::gil_scoped_release released;
  self.get().AddRequest(request_id, numbers, std::move(read_extras), read_parts, read_salt);
}

nb::dict ManagerStats(PyManager& self) {
  const KvManagerStats stats = self.get().TakeStats();
  nb::dict dict;
  dict["lookups_hit"] = stats.lookups_hit;
  dict["lookups_miss"] = stats.lookups_miss;
  dict["lookups_timeout"] = stats.lookups_timeout;
  dict["loads_ok"] = stats.loads_ok;
  dict["loads_failed"] = stats.loads_failed;
  dict["load_tokens"] = stats.load_tokens;
  dict["saves_stored"] = stats.saves_stored;
  dict["saves_present"] = stats.saves_present;
  dict["saves_dropped"] = stats.saves_dropped;
  dict["quarantined_pages"] = stats.quarantined_pages;
  dict["reconnects"] = stats.reconnects;
  return dict;
}

nb::dict WorkerStats(PyWorker& self) {
  const KvWorkerStats stats = self.get().TakeStats();
  nb::dict dict;
  dict["worker_loads_received"] = stats.loads_received;
  dict["worker_loads_failed"] = stats.loads_failed;
  dict["worker_loads_over_deadline"] = stats.loads_over_deadline;
  dict["kv_bytes"] = stats.kv_bytes;
  dict["wire_bytes"] = stats.wire_bytes;
  dict["worker_reconnects"] = stats.reconnects;
  return dict;
}

void BindManager(nb::module_& module) {
  using Unlocked = nb::call_guard<nb::gil_scoped_release>;
  nb::class_<PyManager>(module, "KvManager")
      .def(nb::init<nb::handle>(), "options"_a)
      .def_prop_ro("epoch", [](PyManager& self) { return self.get().epoch(); })
      .def(
          "wait_ready",
          [](PyManager& self, double timeout_s) { return Unwrap(self.get().WaitReady(timeout_s)); },
          "timeout_s"_a, Unlocked())
      .def("add_request", &AddRequest, "request_id"_a, "tokens"_a, "extras"_a, "parts"_a, "salt"_a)
      .def(
          "matched_tokens",
          [](PyManager& self, const std::string& id, uint64_t computed) {
            return self.get().MatchedTokens(id, computed);
          },
          "request_id"_a, "computed_tokens"_a, Unlocked())
      .def(
          "begin_load",
          [](PyManager& self, const std::string& id, nb::handle page_ids, uint64_t computed,
             uint64_t external) {
            self.get().BeginLoad(id, ReadNumbers(page_ids), computed, external);
          },
          "request_id"_a, "page_ids"_a, "computed_tokens"_a, "external_tokens"_a)
      .def(
          "cancel_load",
          [](PyManager& self, const std::string& id) { return self.get().CancelLoad(id); },
          "request_id"_a)
      .def(
          "loading", [](PyManager& self, const std::string& id) { return self.get().Loading(id); },
          "request_id"_a)
      .def(
          "load_finished",
          [](PyManager& self, const std::string& id, bool failed) {
            return self.get().LoadFinished(id, failed);
          },
          "request_id"_a, "failed"_a)
      .def(
          "begin_saves",
          [](PyManager& self, const std::string& id, uint64_t computed, nb::handle page_ids) {
            return self.get().BeginSaves(id, computed, ReadNumbers(page_ids));
          },
          "request_id"_a, "computed_tokens"_a, "page_ids"_a)
      .def(
          "unsaved", [](PyManager& self, const std::string& id) { return self.get().Unsaved(id); },
          "request_id"_a)
      .def(
          "extend_request",
          [](PyManager& self, const std::string& id, nb::handle tokens) {
            self.get().ExtendRequest(id, ReadNumbers(tokens));
          },
          "request_id"_a, "tokens"_a)
      .def("flush", [](PyManager& self) { self.get().Flush(); })
      .def("take_releases", [](PyManager& self) { return self.get().TakeReleases(); })
      .def("held_pages", [](PyManager& self) { return self.get().HeldPages(); })
      .def(
          "finish_request",
          [](PyManager& self, const std::string& id) { self.get().FinishRequest(id); },
          "request_id"_a)
      .def("new_namespace", [](PyManager& self) { self.get().NewNamespace(); })
      .def("metadata", [](PyManager& self) { return ToBytes(self.get().Metadata()); })
      .def("healthy", [](PyManager& self) { return self.get().healthy(); })
      .def("stats", &ManagerStats)
      .def("close", &PyManager::Close);
}

std::string RegisterWorker(PyWorker& self, uintptr_t address, size_t bytes, nb::handle layout) {
  PageLayout read_layout = ReadLayout(layout, self.dtype());
  const nb::gil_scoped_release released;
  return Unwrap(
      self.get().Register({reinterpret_cast<std::byte*>(address), bytes}, std::move(read_layout)));
}

void BindWorker(nb::module_& module) {
  nb::class_<PyWorker>(module, "KvWorker")
      .def(nb::init<nb::handle>(), "options"_a)
      .def("register", &RegisterWorker, "address"_a, "nbytes"_a, "layout"_a)
      .def(
          "begin_step",
          [](PyWorker& self, nb::bytes metadata) {
            self.get().BeginStep({metadata.c_str(), metadata.size()});
          },
          "metadata"_a)
      .def(
          "poll",
          [](PyWorker& self, int64_t wait_us) {
            CompletionTable::Finished finished;
            {
              const nb::gil_scoped_release released;
              finished = self.get().Poll(wait_us);
            }
            return std::pair(std::move(finished.received), std::move(finished.failed));
          },
          "wait_us"_a)
      .def("pending", [](PyWorker& self) { return self.get().Pending(); })
      .def("stats", &WorkerStats)
      .def("close", &PyWorker::Close);
}

}  // namespace
}  // namespace shadowserve

NB_MODULE(_core, module) {
  using namespace shadowserve;
  module.attr("__version__") = SS_VERSION;
  nb::exception<RefusedError>(module, "Refused", PyExc_RuntimeError);
  module.def(
      "fingerprint_files",
      [](const std::vector<std::string>& paths, std::optional<std::string> cache_file) {
        Result<Digest> digest = [&] {
          const nb::gil_scoped_release released;
          return FingerprintFiles(paths, cache_file.value_or(""));
        }();
        return ToBytes(Unwrap(std::move(digest)));
      },
      "paths"_a, "cache_file"_a = nb::none());
  module.def(
      "root_key",
      [](nb::sequence parts) {
        const std::vector<std::string> read = ReadParts(parts);
        const std::vector<std::string_view> views(read.begin(), read.end());
        return ToBytes(RootKey(views));
      },
      "parts"_a);
  module.def("host_cpu_form", [] {
#if defined(__x86_64__)
    return "x86_64";
#elif defined(__aarch64__)
    return "aarch64";
#else
    return "other";
#endif
  });
  BindManager(module);
  BindWorker(module);
}
