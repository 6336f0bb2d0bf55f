#include "bench/bench_options.h"

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <array>
#include <charconv>
#include <sstream>

#include "cli/text.h"
#include "store/store_table.h"

namespace shadowserve {
namespace {

struct VerbRow {
  BenchVerb verb;
  const char* name;
  const char* help;
};
constexpr std::array<VerbRow, 4> kVerbs = {{
    {BenchVerb::kPipeline, "pipeline", "loads through the whole pipeline, and its stages alone"},
    {BenchVerb::kStages, "stages", "the stages alone: network, decode, dequantize, write"},
    {BenchVerb::kCodec, "codec", "the lossless codec alone, both ways"},
    {BenchVerb::kStore, "store", "reads of the store alone"},
}};

// What the command line gives as text.
struct Words {
  std::string profile;
  std::string lossless;
  std::string cores;
  std::string pages;
  std::string format;
  std::string engine;
  std::string emulate;
};

Status Invalid(std::string_view message) {
  return Status(StatusCode::kInvalidArgument, OneLine(message));
}

// "1,3-4" -> 1, 3, 4
Status ParseCores(const std::string& text, std::vector<int>* cores) {
  const Status bad = Invalid("--cores: '" + text + "' is no list of CPUs (example: 1,3-4)");
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at < end) {
    int first = 0;
    std::from_chars_result item = std::from_chars(at, end, first);
    int last = first;
    if (item.ec == std::errc() && item.ptr < end && *item.ptr == '-') {
      item = std::from_chars(item.ptr + 1, end, last);
    }
    if (item.ec != std::errc() || first < 0 || last < first || last > 1023) return bad;
    for (int cpu = first; cpu <= last; ++cpu) cores->push_back(cpu);
    if (item.ptr < end && (*item.ptr != ',' || item.ptr + 1 == end)) return bad;
    at = item.ptr == end ? end : item.ptr + 1;
  }
  return OkStatus();
}

Status CheckCard(const BenchOptions& options) {
  if (options.card == nullptr) return OkStatus();
  if (options.verb != BenchVerb::kPipeline && options.verb != BenchVerb::kStages) {
    return Invalid("--emulate: only pipeline and stages can do that");
  }
  if (!options.engine_device.empty()) {
    return Invalid("--emulate and --engine compressdev are two engines");
  }
  if (options.cores.size() > options.card->cores) {
    return Invalid("--emulate: the card has " + std::to_string(options.card->cores) +
                   " cores, --cores names " + std::to_string(options.cores.size()));
  }
  return OkStatus();
}

void AddOptions(CLI::App& app, BenchOptions& options, Words& words) {
  app.add_option("--profile", words.profile, "raw, lossless, q8 or balanced (default lossless)");
  app.add_option("--lossless", words.lossless,
                 "codec behind the profile: zstd, deflate or none (default zstd; raw: none; with "
                 "--emulate deflate)");
  app.add_option("--store", options.store_url,
                 "store URL (default: a disk store in a temporary directory)");
  app.add_option("--cores", words.cores, "CPUs of the data plane, for example 1,3-4");
  app.add_option("--engine", words.engine,
                 "what decodes Deflate blocks: software or compressdev (default software)");
  app.add_option("--engine-device", options.engine_device,
                 "device of compressdev, for example compress_isal");
  app.add_option("--emulate", words.emulate,
                 "pipeline and stages: as fast as a card's decompression engine and memory: bf3");
  app.add_option("--link", options.link_gigabits_per_s,
                 "the store's objects arrive over an emulated link of so many Gbit/s")
      ->check(CLI::Range(0.001, 10000.0));
  app.add_option("--format", words.format, "text or json (default text)");
  app.add_option("--pages", words.pages,
                 "form of the engine's pages: cpu-vec (vLLM on CPU) or rows (GPU) (default "
                 "cpu-vec)");
  app.add_option("--page-tokens", options.page_tokens, "tokens of a page (default 128)");
  app.add_option("--layers", options.model.layers, "layers of the model (default 32)");
  app.add_option("--kv-heads", options.model.kv_heads, "KV heads of the model (default 8)");
  app.add_option("--head-dim", options.model.head_dim, "dims of a head (default 128)");
  app.add_option("--chunks", options.chunks, "chunks of 256 tokens in one load (default 8)")
      ->check(CLI::Range(1, 1024));
  app.add_option("--joins", options.joins,
                 "joins in flight (default " + std::to_string(options.joins) + ")")
      ->check(CLI::Range(1, 4096));
  app.add_option("--windows", options.windows, "windows whose median counts (default 9)")
      ->check(CLI::Range(1, 1000));
  app.add_option("--window-seconds", options.window_seconds, "length of a window (default 0.4)")
      ->check(CLI::Range(0.01, 60.0));
  app.add_option("--warmup-seconds", options.warmup_seconds, "not measured (default 1)")
      ->check(CLI::Range(0.0, 60.0));
}

Status TakeWords(const Words& words, BenchOptions& options) {
  if (!words.profile.empty()) {
    SS_TRY_ASSIGN(options.profile, ParseProfile(words.profile));
  }
  if (!words.emulate.empty()) {
    const Result<const CardProfile*> card = FindCard(words.emulate);
    if (!card.ok()) return Invalid("--emulate: " + std::string(card.status().message()));
    options.card = *card;
    options.lossless = CodecId::kDeflate;  // what its engine decodes
  }
  // Bits of 16-bit values hardly shrink: raw is for links that need no codec.
  if (options.profile == Profile::kRaw) options.lossless = CodecId::kNone;
  if (!words.lossless.empty()) {
    SS_TRY_ASSIGN(options.lossless, ParseCodec(words.lossless));
  }
  SS_TRY(ParseCores(words.cores, &options.cores));
  const bool compressdev = words.engine == "compressdev";
  if (!words.engine.empty() && words.engine != "software" && !compressdev) {
    return Invalid("--engine: '" + words.engine + "' is neither software nor compressdev");
  }
  if (compressdev == options.engine_device.empty()) {
    return Invalid("--engine compressdev and --engine-device need each other");
  }
  SS_TRY(CheckCard(options));
  if (!words.format.empty()) {
    if (words.format != "text" && words.format != "json") {
      return Invalid("--format: '" + words.format + "' is neither text nor json");
    }
    options.json = words.format == "json";
  }
  if (words.pages == "rows") {
    options.pages = BenchPages::kRows;
  } else if (!words.pages.empty() && words.pages != "cpu-vec") {
    return Invalid("--pages: '" + words.pages + "' is neither cpu-vec nor rows");
  }
  if (!options.store_url.empty()) {
    SS_TRY(CheckStoreUrl(options.store_url).WithContext("--store"));
  }
  if (options.page_tokens == 0 || kChunkTokens % options.page_tokens != 0) {
    return Invalid("--page-tokens: it must divide " + std::to_string(kChunkTokens));
  }
  return CheckModelShape(options.model);
}

}  // namespace

std::string_view BenchVerbName(BenchVerb verb) {
  return kVerbs[static_cast<size_t>(verb)].name;
}

std::string_view BenchPagesName(BenchPages pages) {
  return pages == BenchPages::kRows ? "rows" : "cpu-vec";
}

Result<BenchOptions> ParseBenchOptions(std::span<const std::string> arguments, bool json) {
  BenchOptions options;
  options.json = json;
  Words words;
  CLI::App app("Measures the data plane on this machine; needs no daemon.", "shadowctl bench");
  app.require_subcommand(0, 1);  // none at all is reported below: a misspelt one is named first
  app.fallthrough();
  AddOptions(app, options, words);
  for (const VerbRow& row : kVerbs) {
    CLI::App* verb = app.add_subcommand(row.name, row.help);
    verb->fallthrough();
    verb->callback([&options, &row] { options.verb = row.verb; });
  }
  try {
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::Success& success) {  // --help
    std::ostringstream text;
    app.exit(success, text, text);
    options.output = text.str();
    return options;
  } catch (const CLI::ParseError& error) {
    return Invalid("bench: " + std::string(error.what()) + " (see bench --help)");
  }
  if (app.get_subcommands().empty()) {
    return Invalid("bench: say what: pipeline, stages, codec or store (see bench --help)");
  }
  SS_TRY(TakeWords(words, options).WithContext("bench"));
  return options;
}

}  // namespace shadowserve
