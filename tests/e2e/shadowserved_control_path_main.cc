// A data plane that answers and completes everything but moves no byte: measures what the control
// path alone costs the engine's decoding (scripts/interference.py). Never serve with it.
#include "app/run_daemon.h"

int main(int argc, char** argv) {
  return shadowserve::RunDaemon(argc, argv, {.control_path_only = true});
}
