// shadowserved: the data plane as a process.
#include "app/run_daemon.h"

int main(int argc, char** argv) {
  return shadowserve::RunDaemon(argc, argv, {});
}
