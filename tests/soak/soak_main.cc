// soak_driver: engines without a model on a data plane that runs elsewhere; scripts/soak.py starts
// both and injects the faults. Prints a line of JSON each second, and a last one with "final" true.
// Exit status: 0 no violation, 1 some, 2 bad usage or no data plane.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <map>
#include <thread>

#include "base/log.h"
#include "engine.h"

namespace shadowserve::soak {
namespace {

// After so many a run ends: what follows tells nothing new.
constexpr uint64_t kViolationsMax = 20;

struct Arguments {
  std::string data_plane;
  uint64_t requests = 1000;
  uint64_t seed = 1;
  uint32_t at_once = 32;
  double fetch_deadline_s = 1.5;
  Break breaking = Break::kNothing;
};

// Two engines of one model that differ in all that may differ.
std::vector<EngineOptions> OptionsOf(const Arguments& arguments) {
  EngineOptions first;
  first.data_plane = arguments.data_plane;
  first.name = "soak-a";
  first.seed = arguments.seed;
  first.own_seed = Mix(arguments.seed) + 1;
  first.requests = arguments.requests / 2;
  first.requests_at_once = std::max(1U, arguments.at_once / 2);
  first.fetch_deadline_s = arguments.fetch_deadline_s;
  first.breaking = arguments.breaking;
  EngineOptions second = first;
  second.name = "soak-b";
  second.own_seed = Mix(arguments.seed) + 1000;
  second.requests = arguments.requests - first.requests;
  second.page_tokens = 32;
  second.pages_outermost = true;
  second.early_write = false;
  second.save_deadline_s = 5;
  second.dead_ms = 1500;  // some stalls end its sessions
  return {first, second};
}

void PrintLine(Report* report, bool final, std::chrono::steady_clock::time_point start) {
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::puts(report->Json(final, seconds.count()).c_str());
  std::fflush(stdout);
}

int Run(const Arguments& arguments) {
  Report report;
  std::vector<std::unique_ptr<Engine>> engines;
  for (EngineOptions& options : OptionsOf(arguments)) {
    Result<std::unique_ptr<Engine>> engine = Engine::Create(std::move(options), &report);
    if (!engine.ok()) {
      std::fprintf(stderr, "soak_driver: %s\n", engine.status().ToString().c_str());
      return 2;
    }
    engines.push_back(std::move(*engine));
  }
  const auto start = std::chrono::steady_clock::now();
  std::atomic<bool> stop = false;
  std::atomic<size_t> running = engines.size();
  std::vector<std::jthread> threads;
  for (const auto& engine : engines) {
    threads.emplace_back([&running, &stop, engine = engine.get()] {
      engine->Run(stop);
      --running;
    });
  }
  const uint64_t violations_max = arguments.breaking == Break::kNothing ? kViolationsMax : 1;
  auto next_line = start;
  while (running > 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    if (report.violations >= violations_max) stop = true;
    if (std::chrono::steady_clock::now() < next_line) continue;
    next_line += std::chrono::seconds(1);
    PrintLine(&report, false, start);
  }
  threads.clear();
  if (!stop && report.requests != arguments.requests) {
    report.Violation(
        fmt::format("{} requests ended of {}", report.requests.load(), arguments.requests));
  }
  PrintLine(&report, true, start);
  return report.violations == 0 ? 0 : 1;
}

}  // namespace
}  // namespace shadowserve::soak

int main(int argc, char** argv) {
  using shadowserve::soak::Break;
  shadowserve::soak::Arguments arguments;
  CLI::App app("Engines without a model on a running data plane, checked byte by byte");
  app.add_option("--data-plane", arguments.data_plane, "unix:///path of shadowserved")->required();
  app.add_option("--requests", arguments.requests, "over both engines");
  app.add_option("--seed", arguments.seed, "of prompts, contents and events");
  app.add_option("--at-once", arguments.at_once, "requests in flight, over both engines");
  app.add_option("--fetch-deadline", arguments.fetch_deadline_s, "of a load, in seconds");
  app.add_option("--break", arguments.breaking, "do wrong in this way: the checks must find it")
      ->transform(
          CLI::CheckedTransformer(std::map<std::string, Break>{{"late-write", Break::kLateWrite},
                                                               {"early-reuse", Break::kEarlyReuse},
                                                               {"flip", Break::kFlip}}));
  CLI11_PARSE(app, argc, argv);
  shadowserve::SetLogLevel(shadowserve::LogLevel::kError);
  return shadowserve::soak::Run(arguments);
}
