// shadowctl: looks into a running data plane. Everything is in RunShadowctl.
#include <iostream>
#include <string>
#include <vector>

#include "cli/commands.h"

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  return shadowserve::RunShadowctl(arguments, std::cout, std::cerr);
}
