// Plug-in: raw Deflate through DPDK's compressdev. Software drivers (compress_isal, compress_zlib)
// are made on the spot; anything else is a device of a bus with its device arguments, for example
// "0000:03:00.0,class=compress" of a BlueField's mlx5 driver.
//
// One operation is one block in one segment (mlx5 has no scatter-gather): mbufs are only borrowed
// views of the caller's memory, no byte is copied. A software driver does all of its work inside of
// its enqueue call, so a thread of its own stands behind each queue; a real device is polled.
//
// A queue is a queue pair with a transform, operations and mbufs of its own, all made when the
// engine is opened: queues of different threads share nothing but the driver, which asks for no
// more than one thread per queue pair. None of these threads is EAL's: pools have no caches per
// lcore, and nothing is taken from one after the start.
//
// What can be promised of memory: an operation that came back touches nothing any more. Of those
// that did not come back, Stop waits for some time, then takes the device down: a real one
// loses its queue pairs, after which it moves no byte. Only a software driver's thread that never
// returns cannot be stopped: then Stop says so, everything is left as it is, and its caller must
// not unmap what it lent.
#include <pthread.h>
#include <rte_comp.h>
#include <rte_compressdev.h>
#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_mbuf.h>
#include <rte_memory.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "codec/compressdev/eal_process.h"
#include "codec/engine_abi.h"

namespace shadowserve::compressdev {
namespace {

// An mbuf's segment: its length is 16 bits wide.
constexpr uint32_t kOpBytesMax = std::numeric_limits<uint16_t>::max();
constexpr uint32_t kQueuesMax = 16;  // what EAL's heap has room for, with software drivers
constexpr uint32_t kDepthMax = 1024;
constexpr uint8_t kWindowBits = 15;
// How long operations may take to come home when the engine is stopped.
constexpr int kStopWaitSeconds = 2;

// Numbers from one thread to one other. Holds every job of a queue, so it is never full.
class IndexRing {
 public:
  explicit IndexRing(uint32_t capacity) : slots_(std::bit_ceil(capacity)) {}
  void Push(uint32_t value) {
    const uint32_t tail = tail_.load(std::memory_order_relaxed);
    slots_[tail & (slots_.size() - 1)] = value;
    tail_.store(tail + 1, std::memory_order_release);
  }
  bool TryPop(uint32_t* value) {
    const uint32_t head = head_.load(std::memory_order_relaxed);
    if (head == tail_.load(std::memory_order_acquire)) return false;
    *value = slots_[head & (slots_.size() - 1)];
    head_.store(head + 1, std::memory_order_release);
    return true;
  }

 private:
  std::vector<uint32_t> slots_;
  std::atomic<uint32_t> head_ = 0;
  std::atomic<uint32_t> tail_ = 0;
};

void NothingToFree(void*, void*) {}

struct Job {
  uint64_t tag = 0;
  uint32_t coded_bytes = 0;
  uint32_t symbol_bytes = 0;
  rte_comp_op* op = nullptr;
  rte_mbuf_ext_shared_info coded_info = {};
  rte_mbuf_ext_shared_info symbols_info = {};
  uint32_t status = kEngineAbiUnavailable;
};

void Lend(rte_mbuf* mbuf, const void* bytes, uint32_t count, rte_mbuf_ext_shared_info* info) {
  void* begin = const_cast<void*>(bytes);  // an mbuf knows no const; the source is only read
  info->free_cb = NothingToFree;
  info->fcb_opaque = nullptr;
  rte_mbuf_ext_refcnt_set(info, 1);
  const auto length = static_cast<uint16_t>(count);
  rte_pktmbuf_attach_extbuf(mbuf, begin, reinterpret_cast<rte_iova_t>(begin), length, info);
  mbuf->data_off = 0;
  mbuf->data_len = length;
  mbuf->pkt_len = length;
  mbuf->nb_segs = 1;
  mbuf->next = nullptr;
}

uint32_t StatusOf(const Job& job) {
  switch (job.op->status) {
    case RTE_COMP_OP_STATUS_SUCCESS:
      return job.op->produced == job.symbol_bytes && job.op->consumed == job.coded_bytes
                 ? kEngineAbiOk
                 : kEngineAbiCorrupt;
    case RTE_COMP_OP_STATUS_ERROR:
    case RTE_COMP_OP_STATUS_OUT_OF_SPACE_TERMINATED:
    case RTE_COMP_OP_STATUS_OUT_OF_SPACE_RECOVERABLE:
      return kEngineAbiCorrupt;
    default:
      return kEngineAbiUnavailable;
  }
}

struct Engine;

struct Queue {
  Engine* engine = nullptr;
  uint16_t number = 0;
  void* xform = nullptr;
  rte_mempool* op_pool = nullptr;
  rte_mempool* mbuf_pool = nullptr;
  std::vector<Job> jobs;
  std::vector<uint32_t> free;  // numbers of jobs; the owner's
  bool taken = false;          // by open_queue
  bool lost = false;           // something of it never came back

  // Behind a software driver: a thread, and numbers of jobs to and from it.
  std::unique_ptr<IndexRing> asked;
  std::unique_ptr<IndexRing> answered;
  std::atomic<uint32_t> wakeups = 0;
  std::atomic<bool> stopping = false;
  bool running = false;
  pthread_t thread = {};

  bool idle() const { return free.size() == jobs.size(); }
};

struct Engine {
  std::string device;
  uint8_t id = 0;
  bool software = false;
  bool started = false;
  bool stopped = false;
  rte_device* bus_device = nullptr;  // of a real one
  std::mutex mutex;                  // guards Queue::taken and lost
  std::vector<std::unique_ptr<Queue>> queues;
};

uint32_t JobNumber(const rte_comp_op* op) {
  uint32_t number = 0;
  std::memcpy(&number, op + 1, sizeof(number));
  return number;
}

// Every field: drivers add to what the last use left.
void Prepare(Queue* queue, Job* job, const EngineAbiOp& asked) {
  job->tag = asked.tag;
  job->coded_bytes = asked.coded_bytes;
  job->symbol_bytes = asked.symbol_bytes;
  job->status = kEngineAbiUnavailable;
  rte_comp_op* op = job->op;
  Lend(op->m_src, asked.coded, asked.coded_bytes, &job->coded_info);
  Lend(op->m_dst, asked.symbols, asked.symbol_bytes, &job->symbols_info);
  op->op_type = RTE_COMP_OP_STATELESS;
  op->private_xform = queue->xform;
  op->src.offset = 0;
  op->src.length = asked.coded_bytes;
  op->dst.offset = 0;
  op->hash.digest = nullptr;
  op->hash.iova_addr = 0;
  op->flush_flag = RTE_COMP_FLUSH_FINAL;
  op->input_chksum = 0;
  op->output_chksum = 0;
  op->consumed = 0;
  op->produced = 0;
  op->debug_status = 0;
  op->status = RTE_COMP_OP_STATUS_NOT_PROCESSED;
}

// One operation through a software driver; false when it did not come back before the stop.
bool RunJob(Queue* queue, Job* job) {
  rte_comp_op* op = job->op;
  if (rte_compressdev_enqueue_burst(queue->engine->id, queue->number, &op, 1) != 1) return true;
  rte_comp_op* back = nullptr;
  while (rte_compressdev_dequeue_burst(queue->engine->id, queue->number, &back, 1) != 1) {
    if (queue->stopping.load(std::memory_order_relaxed)) return false;
    sched_yield();
  }
  if (back == op) job->status = StatusOf(*job);
  return back == op;
}

void* RunQueue(void* argument) {
  auto* queue = static_cast<Queue*>(argument);
  pthread_setname_np(pthread_self(), "ss-engine");
  for (;;) {
    const uint32_t seen = queue->wakeups.load(std::memory_order_acquire);
    uint32_t number = 0;
    while (!queue->stopping.load(std::memory_order_relaxed) && queue->asked->TryPop(&number)) {
      if (!RunJob(queue, &queue->jobs[number])) return nullptr;
      queue->answered->Push(number);
    }
    if (queue->stopping.load(std::memory_order_relaxed)) return nullptr;
    queue->wakeups.wait(seen, std::memory_order_acquire);
  }
}

void Wake(Queue* queue) {
  queue->wakeups.fetch_add(1, std::memory_order_release);
  queue->wakeups.notify_one();
}

bool StartThread(Queue* queue) {
  queue->stopping = false;
  queue->running = pthread_create(&queue->thread, nullptr, RunQueue, queue) == 0;
  return queue->running;
}

bool StopThread(Queue* queue) {
  if (!queue->running) return true;
  queue->stopping = true;
  Wake(queue);
  timespec until = {};
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += kStopWaitSeconds;
  if (pthread_timedjoin_np(queue->thread, nullptr, &until) != 0) return false;
  queue->running = false;
  return true;
}

uint32_t SubmitToThread(Queue* queue, const EngineAbiOp* ops, uint32_t count) {
  uint32_t taken = 0;
  for (; taken < count && !queue->free.empty(); ++taken) {
    const uint32_t number = queue->free.back();
    queue->free.pop_back();
    Prepare(queue, &queue->jobs[number], ops[taken]);
    queue->asked->Push(number);
  }
  if (taken > 0) Wake(queue);
  return taken;
}

uint32_t SubmitToDevice(Queue* queue, const EngineAbiOp* ops, uint32_t count) {
  constexpr uint32_t kBurst = 32;
  std::array<rte_comp_op*, kBurst> burst;
  const auto offered =
      static_cast<uint16_t>(std::min({count, kBurst, static_cast<uint32_t>(queue->free.size())}));
  for (uint32_t i = 0; i < offered; ++i) {
    Job* job = &queue->jobs[queue->free[queue->free.size() - 1 - i]];
    Prepare(queue, job, ops[i]);
    burst[i] = job->op;
  }
  const uint16_t taken =
      offered == 0
          ? uint16_t{0}
          : rte_compressdev_enqueue_burst(queue->engine->id, queue->number, burst.data(), offered);
  queue->free.resize(queue->free.size() - taken);
  return taken;
}

uint32_t Submit(void* handle, const EngineAbiOp* ops, uint32_t count) {
  auto* queue = static_cast<Queue*>(handle);
  if (queue->engine->stopped) return 0;
  uint32_t sound = 0;
  for (; sound < count; ++sound) {
    const EngineAbiOp& op = ops[sound];
    if (op.coded_bytes == 0 || op.coded_bytes > kOpBytesMax || op.symbol_bytes == 0 ||
        op.symbol_bytes > kOpBytesMax) {
      break;
    }
  }
  return queue->engine->software ? SubmitToThread(queue, ops, sound)
                                 : SubmitToDevice(queue, ops, sound);
}

void Answer(Queue* queue, uint32_t number, EngineAbiDone* done) {
  const Job& job = queue->jobs[number];
  *done = {job.tag, job.status, 0};
  queue->free.push_back(number);
}

uint32_t Poll(void* handle, EngineAbiDone* done, uint32_t count) {
  constexpr uint32_t kBurst = 32;
  auto* queue = static_cast<Queue*>(handle);
  if (queue->engine->software) {
    uint32_t got = 0;
    for (uint32_t number = 0; got < count && queue->answered->TryPop(&number); ++got) {
      Answer(queue, number, &done[got]);
    }
    return got;
  }
  if (queue->engine->stopped || queue->idle()) return 0;
  std::array<rte_comp_op*, kBurst> burst;
  const uint16_t got =
      rte_compressdev_dequeue_burst(queue->engine->id, queue->number, burst.data(),
                                    static_cast<uint16_t>(std::min(count, kBurst)));
  for (uint16_t i = 0; i < got; ++i) {
    const uint32_t number = JobNumber(burst[i]);
    queue->jobs[number].status = StatusOf(queue->jobs[number]);
    Answer(queue, number, &done[i]);
  }
  return got;
}

int FindDevice(Engine* engine, char* error, size_t error_bytes) {
  const char* device = engine->device.c_str();
  if (IsSoftware(engine->device)) {
    int id = rte_compressdev_get_dev_id(device);
    if (id >= 0 && eal.in_use[static_cast<size_t>(id)]) {
      return Refuse(error, error_bytes, "it is open already");
    }
    // Made once: DPDK 22.11 cannot make a compress device after one was removed.
    if (const int code = id >= 0 ? 0 : rte_eal_hotplug_add("vdev", device, ""); code != 0) {
      return Refuse(error, error_bytes, "no DPDK driver makes this device: %s%s",
                    rte_strerror(-code), Because().c_str());
    }
    id = rte_compressdev_get_dev_id(device);
    if (id < 0) return Refuse(error, error_bytes, "its driver makes no compress device");
    engine->id = static_cast<uint8_t>(id);
    return 0;
  }
  if (rte_compressdev_count() != 1) {
    return Refuse(error, error_bytes,
                  "DPDK finds %u compress devices there, not one; is its driver installed, and "
                  "is class=compress among its arguments?%s",
                  static_cast<unsigned>(rte_compressdev_count()), Because().c_str());
  }
  const std::string name = engine->device.substr(0, engine->device.find(','));
  for (const char* bus : {"bus=pci", "bus=auxiliary"}) {
    rte_dev_iterator iterator = {};
    rte_device* found = nullptr;
    RTE_DEV_FOREACH(found, bus, &iterator) {
      if (name.find(rte_dev_name(found)) != std::string::npos) engine->bus_device = found;
    }
  }
  if (engine->bus_device == nullptr) return Refuse(error, error_bytes, "it is on no known bus");
  return 0;
}

// Leaves of the `queues` that are wanted those that there are.
int CheckDevice(Engine* engine, uint32_t* queues, char* error, size_t error_bytes) {
  rte_compressdev_info info = {};
  rte_compressdev_info_get(engine->id, &info);
  engine->software = (info.feature_flags & RTE_COMPDEV_FF_HW_ACCELERATED) == 0;
  *queues = std::min(*queues, kQueuesMax);
  if (info.max_nb_queue_pairs != 0) *queues = std::min<uint32_t>(*queues, info.max_nb_queue_pairs);
  const rte_compressdev_capabilities* deflate =
      rte_compressdev_capability_get(engine->id, RTE_COMP_ALGO_DEFLATE);
  if (deflate == nullptr) return Refuse(error, error_bytes, "it does not know Deflate");
  const rte_param_log2_range& window = deflate->window_size;
  if (window.min > kWindowBits || window.max < kWindowBits) {
    return Refuse(error, error_bytes, "its windows have %u to %u bits, %u are needed", window.min,
                  window.max, kWindowBits);
  }
  for (const auto& [flag, what] :
       {std::pair{RTE_COMP_FF_HUFFMAN_FIXED, "fixed"}, {RTE_COMP_FF_HUFFMAN_DYNAMIC, "dynamic"}}) {
    if ((deflate->comp_feature_flags & flag) == 0) {
      return Refuse(error, error_bytes, "it does not decode %s Huffman codes", what);
    }
  }
  return 0;
}

int MakeQueue(Engine* engine, uint16_t number, uint32_t depth, char* error, size_t error_bytes) {
  auto queue = std::make_unique<Queue>();
  queue->engine = engine;
  queue->number = number;
  rte_comp_xform xform = {};
  xform.type = RTE_COMP_DECOMPRESS;
  xform.decompress.algo = RTE_COMP_ALGO_DEFLATE;
  xform.decompress.chksum = RTE_COMP_CHECKSUM_NONE;
  xform.decompress.window_size = kWindowBits;
  xform.decompress.hash_algo = RTE_COMP_HASH_ALGO_NONE;
  if (rte_compressdev_private_xform_create(engine->id, &xform, &queue->xform) != 0) {
    return Refuse(error, error_bytes, "it does not decompress Deflate%s", Because().c_str());
  }
  const std::string name = "ss" + std::to_string(engine->id) + "q" + std::to_string(number);
  queue->op_pool =
      rte_comp_op_pool_create((name + "o").c_str(), depth, 0, sizeof(uint32_t), SOCKET_ID_ANY);
  queue->mbuf_pool =
      rte_pktmbuf_pool_create((name + "m").c_str(), depth * 2, 0, 0, 0, SOCKET_ID_ANY);
  Queue* made = engine->queues.emplace_back(std::move(queue)).get();
  if (made->op_pool == nullptr || made->mbuf_pool == nullptr) {
    return Refuse(error, error_bytes, "no memory for %u operations of queue %u%s", depth, number,
                  Because().c_str());
  }
  made->jobs = std::vector<Job>(depth);
  made->asked = std::make_unique<IndexRing>(depth);
  made->answered = std::make_unique<IndexRing>(depth);
  for (uint32_t i = 0; i < depth; ++i) {
    rte_comp_op* op = rte_comp_op_alloc(made->op_pool);
    if (op == nullptr) return Refuse(error, error_bytes, "no memory for an operation");
    op->m_src = rte_pktmbuf_alloc(made->mbuf_pool);
    op->m_dst = rte_pktmbuf_alloc(made->mbuf_pool);
    if (op->m_src == nullptr || op->m_dst == nullptr) {
      return Refuse(error, error_bytes, "no memory for a segment");
    }
    std::memcpy(op + 1, &i, sizeof(i));
    made->jobs[i].op = op;
    made->free.push_back(i);
  }
  return 0;
}

int StartDevice(Engine* engine, const EngineAbiConfig& config, char* error, size_t error_bytes) {
  rte_compressdev_config setup = {};
  setup.socket_id = SOCKET_ID_ANY;
  setup.nb_queue_pairs = static_cast<uint16_t>(config.queues);
  setup.max_nb_priv_xforms = static_cast<uint16_t>(config.queues);
  if (const int code = rte_compressdev_configure(engine->id, &setup); code != 0) {
    return Refuse(error, error_bytes, "it cannot be set up: %s%s", rte_strerror(-code),
                  Because().c_str());
  }
  for (uint16_t i = 0; i < config.queues; ++i) {
    // A driver's ring of n holds one less.
    const int code = rte_compressdev_queue_pair_setup(
        engine->id, i, std::bit_ceil(config.depth + 1), SOCKET_ID_ANY);
    if (code != 0) {
      return Refuse(error, error_bytes, "it takes no queue of %u operations: %s%s", config.depth,
                    rte_strerror(-code), Because().c_str());
    }
  }
  if (const int code = rte_compressdev_start(engine->id); code != 0) {
    return Refuse(error, error_bytes, "it does not start: %s%s", rte_strerror(-code),
                  Because().c_str());
  }
  engine->started = true;
  for (uint16_t i = 0; i < config.queues; ++i) {
    if (MakeQueue(engine, i, config.depth, error, error_bytes) != 0) return -1;
  }
  return 0;
}

int32_t Stop(void* handle) {
  auto* engine = static_cast<Engine*>(handle);
  if (engine->stopped) return 1;
  for (const auto& queue : engine->queues) {
    if (!StopThread(queue.get())) return 0;
  }
  if (!engine->software) {
    // Whoever polls no more still lets operations come home, for a while.
    timespec start = {};
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (const auto& queue : engine->queues) {
      timespec now = start;
      while (!queue->idle() && now.tv_sec - start.tv_sec < kStopWaitSeconds) {
        EngineAbiDone done = {};
        (void)Poll(queue.get(), &done, 1);
        clock_gettime(CLOCK_MONOTONIC, &now);
      }
    }
  }
  for (const auto& queue : engine->queues) {
    if (queue->xform != nullptr) {
      (void)rte_compressdev_private_xform_free(engine->id, queue->xform);
      queue->xform = nullptr;
    }
  }
  if (engine->started) rte_compressdev_stop(engine->id);
  engine->started = false;
  // Destroys a real device's queue pairs: nothing of them moves a byte afterwards.
  if (rte_compressdev_close(engine->id) != 0) return 0;
  engine->stopped = true;
  return 1;
}

void Close(void* handle) {
  const std::unique_ptr<Engine> engine(static_cast<Engine*>(handle));
  for (const auto& queue : engine->queues) {
    rte_mempool_free(queue->op_pool);
    rte_mempool_free(queue->mbuf_pool);
  }
  const std::lock_guard lock(eal_mutex);
  eal.in_use[engine->id] = false;
}

void* Open(const EngineAbiConfig* config, EngineAbiLimits* limits, char* error,
           size_t error_bytes) {
  if (config->queues == 0 || config->depth == 0 || config->depth > kDepthMax) {
    Refuse(error, error_bytes, "%u queues of %u operations are not 1 or more of 1 to %u",
           config->queues, config->depth, kDepthMax);
    return nullptr;
  }
  auto engine = std::make_unique<Engine>();
  engine->device = config->device;
  {
    const std::lock_guard lock(eal_mutex);
    if (StartEal(engine->device, error, error_bytes) != 0 ||
        FindDevice(engine.get(), error, error_bytes) != 0) {
      return nullptr;
    }
    eal.in_use[engine->id] = true;
  }
  EngineAbiConfig granted = *config;
  if (CheckDevice(engine.get(), &granted.queues, error, error_bytes) != 0 ||
      StartDevice(engine.get(), granted, error, error_bytes) != 0) {
    if (Stop(engine.get()) == 1) Close(engine.release());
    return nullptr;
  }
  *limits = {kOpBytesMax, config->depth};
  return engine.release();
}

int32_t AddMemory(void* handle, void* begin, uint64_t bytes, char* error, size_t error_bytes) {
  auto* engine = static_cast<Engine*>(handle);
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  if (rte_extmem_register(begin, bytes, nullptr, 0, page) != 0) {
    return Refuse(error, error_bytes, "DPDK does not take %llu bytes of memory: %s%s",
                  static_cast<unsigned long long>(bytes), rte_strerror(rte_errno),
                  Because().c_str());
  }
  if (engine->bus_device == nullptr) return 0;
  const auto address = reinterpret_cast<uint64_t>(begin);
  if (rte_dev_dma_map(engine->bus_device, begin, address, bytes) != 0) {
    (void)rte_extmem_unregister(begin, bytes);
    return Refuse(error, error_bytes, "it cannot reach %llu bytes of memory: %s%s",
                  static_cast<unsigned long long>(bytes), rte_strerror(rte_errno),
                  Because().c_str());
  }
  return 0;
}

void RemoveMemory(void* handle, void* begin, uint64_t bytes) {
  auto* engine = static_cast<Engine*>(handle);
  if (engine->bus_device != nullptr) {
    (void)rte_dev_dma_unmap(engine->bus_device, begin, reinterpret_cast<uint64_t>(begin), bytes);
  }
  (void)rte_extmem_unregister(begin, bytes);
}

void* OpenQueue(void* handle) {
  auto* engine = static_cast<Engine*>(handle);
  if (engine->stopped) return nullptr;
  const std::lock_guard lock(engine->mutex);
  for (const auto& queue : engine->queues) {
    if (queue->taken || queue->lost) continue;
    if (engine->software && !StartThread(queue.get())) return nullptr;
    queue->taken = true;
    return queue.get();
  }
  return nullptr;
}

void CloseQueue(void* handle) {
  auto* queue = static_cast<Queue*>(handle);
  const bool quiet = queue->idle() && StopThread(queue);
  const std::lock_guard lock(queue->engine->mutex);
  queue->lost = !quiet;
  queue->taken = false;
}

constexpr EngineAbiTable kTable = {kEngineAbiVersion,
                                   sizeof(EngineAbiTable),
                                   Open,
                                   AddMemory,
                                   RemoveMemory,
                                   OpenQueue,
                                   CloseQueue,
                                   Submit,
                                   Poll,
                                   Stop,
                                   Close};

}  // namespace
}  // namespace shadowserve::compressdev

extern "C" __attribute__((visibility("default"))) const EngineAbiTable* shadowserve_codec_engine() {
  return &shadowserve::compressdev::kTable;
}
