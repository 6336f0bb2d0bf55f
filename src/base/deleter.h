// A unique_ptr's deleter that calls a C library's own function:
// std::unique_ptr<BIO, Deleter<BIO_free>>.
#ifndef SHADOWSERVE_BASE_DELETER_H_
#define SHADOWSERVE_BASE_DELETER_H_

namespace shadowserve {

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_BASE_DELETER_H_
