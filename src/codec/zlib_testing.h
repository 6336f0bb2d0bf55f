// What zlib makes of symbols, as raw Deflate: fixed codes, stored blocks, matches, long codes.
#ifndef SHADOWSERVE_CODEC_ZLIB_TESTING_H_
#define SHADOWSERVE_CODEC_ZLIB_TESTING_H_

#include <gtest/gtest.h>
#include <zlib.h>

#include <cstddef>
#include <span>
#include <vector>

namespace shadowserve::testing {

inline std::vector<std::byte> EncodedByZlib(std::span<const std::byte> symbols, int level,
                                            int strategy) {
  z_stream stream = {};
  EXPECT_EQ(deflateInit2(&stream, level, Z_DEFLATED, -15, 8, strategy), Z_OK);
  std::vector<std::byte> coded(deflateBound(&stream, symbols.size()));
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(symbols.data()));
  stream.avail_in = static_cast<uInt>(symbols.size());
  stream.next_out = reinterpret_cast<Bytef*>(coded.data());
  stream.avail_out = static_cast<uInt>(coded.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  coded.resize(stream.total_out);
  deflateEnd(&stream);
  return coded;
}

}  // namespace shadowserve::testing

#endif  // SHADOWSERVE_CODEC_ZLIB_TESTING_H_
