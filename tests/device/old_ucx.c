// A libucp that says it is 1.13.1 and has every function by name: what a distribution's package is to
// the version check. None of the others may be called.
#include <stdlib.h>

void ucp_get_version(unsigned* major, unsigned* minor, unsigned* release) {
  *major = 1;
  *minor = 13;
  *release = 1;
}

#define MUST_NOT_BE_CALLED(name) \
  void name(void) { abort(); }
MUST_NOT_BE_CALLED(ucp_config_read)
MUST_NOT_BE_CALLED(ucp_config_modify)
MUST_NOT_BE_CALLED(ucp_config_release)
MUST_NOT_BE_CALLED(ucp_init_version)
MUST_NOT_BE_CALLED(ucp_cleanup)
MUST_NOT_BE_CALLED(ucp_worker_create)
MUST_NOT_BE_CALLED(ucp_worker_destroy)
MUST_NOT_BE_CALLED(ucp_worker_progress)
MUST_NOT_BE_CALLED(ucp_ep_create)
MUST_NOT_BE_CALLED(ucp_ep_rkey_unpack)
MUST_NOT_BE_CALLED(ucp_rkey_destroy)
MUST_NOT_BE_CALLED(ucp_put_nbx)
MUST_NOT_BE_CALLED(ucp_get_nbx)
MUST_NOT_BE_CALLED(ucp_ep_flush_nbx)
MUST_NOT_BE_CALLED(ucp_request_check_status)
MUST_NOT_BE_CALLED(ucp_request_free)
MUST_NOT_BE_CALLED(ucs_status_string)
