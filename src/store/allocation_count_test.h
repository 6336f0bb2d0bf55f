// How often this test program has called operator new so far.
#ifndef SHADOWSERVE_STORE_ALLOCATION_COUNT_TEST_H_
#define SHADOWSERVE_STORE_ALLOCATION_COUNT_TEST_H_

#include <cstddef>

namespace shadowserve {

struct AllocationCount {
  size_t calls = 0;
  size_t live_bytes = 0;  // as malloc rounds them
};
AllocationCount CountAllocations();

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_ALLOCATION_COUNT_TEST_H_
