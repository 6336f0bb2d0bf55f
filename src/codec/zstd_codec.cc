#include "codec/zstd_codec.h"

// Static workspaces, the literal compression mode and frame headers are in the experimental part of
// the interface; the shared library exports them.
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

#include <algorithm>
#include <string>
#include <utility>

#include "codec/literal_zstd.h"

namespace shadowserve {
namespace {

// The largest block anyone asks for (engines that decode 2 MiB at once).
constexpr int kWindowLog = 21;
constexpr size_t kEncodeBytesMax = size_t{1} << kWindowLog;
// Fast levels skip positions in proportion: at this one no match is found, all is literals.
constexpr int kLiteralsOnlyLevel = -100000;

struct ParameterValue {
  ZSTD_cParameter name;
  int value;
};

constexpr ParameterValue kParameters[] = {
    {ZSTD_c_compressionLevel, kLiteralsOnlyLevel},
    {ZSTD_c_literalCompressionMode, ZSTD_ps_enable},  // negative levels store literals otherwise
    {ZSTD_c_windowLog, kWindowLog},
    {ZSTD_c_contentSizeFlag, 1},
    {ZSTD_c_checksumFlag, 0},
    {ZSTD_c_dictIDFlag, 0},
};

class ZstdCodec final : public BlockCodec {
 public:
  Status Init() {
    SS_TRY_ASSIGN(const size_t encoder_bytes, EncoderBytes());
    const size_t decoder_bytes = ZSTD_estimateDCtxSize();
    // new aligns for any fundamental type, more than the 8 bytes that zstd asks for.
    encoder_memory_ = std::make_unique<std::byte[]>(encoder_bytes);
    decoder_memory_ = std::make_unique<std::byte[]>(decoder_bytes);
    encoder_ = ZSTD_initStaticCCtx(encoder_memory_.get(), encoder_bytes);
    decoder_ = ZSTD_initStaticDCtx(decoder_memory_.get(), decoder_bytes);
    if (encoder_ == nullptr || decoder_ == nullptr) return Refused("static context");
    for (const ParameterValue& parameter : kParameters) {
      const size_t code = ZSTD_CCtx_setParameter(encoder_, parameter.name, parameter.value);
      if (ZSTD_isError(code)) return Refused(ZSTD_getErrorName(code));
    }
    return OkStatus();
  }

  size_t Encode(std::span<const std::byte> symbols, std::span<std::byte> out) override {
    const size_t limit = std::min(symbols.size(), out.size());
    if (limit == 0 || symbols.size() > kEncodeBytesMax) return 0;
    // Content that does not shrink shows as "destination too small"; any other failure means the
    // same to the caller: store it as it is.
    const size_t used =
        ZSTD_compress2(encoder_, out.data(), limit - 1, symbols.data(), symbols.size());
    return ZSTD_isError(used) ? 0 : used;
  }

  Status Decode(std::span<const std::byte> coded, std::span<std::byte> symbols) override {
    return literals_.Decode(coded, symbols) ? OkStatus() : DecodeAny(coded, symbols);
  }

 private:
  static Status Refused(const char* what) {
    return Status(StatusCode::kUnsupported,
                  std::string("zstd ") + ZSTD_versionString() + " refuses: " + what);
  }

  // Any frame, and what is wrong with one.
  Status DecodeAny(std::span<const std::byte> coded, std::span<std::byte> symbols) {
    ZSTD_frameHeader header;
    if (ZSTD_getFrameHeader(&header, coded.data(), coded.size()) != 0 ||
        header.frameType != ZSTD_frame) {
      return Status(StatusCode::kCorrupt, "zstd: bad frame header");
    }
    if (header.frameContentSize != symbols.size() || header.dictID != 0) {
      return Status(StatusCode::kCorrupt, "zstd: frame is for another content size");
    }
    // One frame and nothing behind it: zstd itself would go on with further frames.
    if (ZSTD_findFrameCompressedSize(coded.data(), coded.size()) != coded.size()) {
      return Status(StatusCode::kCorrupt, "zstd: frame does not end with the input");
    }
    const size_t size =
        ZSTD_decompressDCtx(decoder_, symbols.data(), symbols.size(), coded.data(), coded.size());
    if (ZSTD_isError(size)) {
      return Status(StatusCode::kCorrupt, std::string("zstd: ") + ZSTD_getErrorName(size));
    }
    if (size != symbols.size()) return Status(StatusCode::kCorrupt, "zstd: output too short");
    return OkStatus();
  }

  static Result<size_t> EncoderBytes() {
    const std::unique_ptr<ZSTD_CCtx_params, decltype(&ZSTD_freeCCtxParams)> parameters(
        ZSTD_createCCtxParams(), ZSTD_freeCCtxParams);
    if (parameters == nullptr) return Refused("parameters");
    for (const ParameterValue& parameter : kParameters) {
      const size_t code =
          ZSTD_CCtxParams_setParameter(parameters.get(), parameter.name, parameter.value);
      if (ZSTD_isError(code)) return Refused(ZSTD_getErrorName(code));
    }
    const size_t bytes = ZSTD_estimateCCtxSize_usingCCtxParams(parameters.get());
    if (ZSTD_isError(bytes)) return Refused(ZSTD_getErrorName(bytes));
    return bytes;
  }

  LiteralZstd literals_;
  std::unique_ptr<std::byte[]> encoder_memory_;
  std::unique_ptr<std::byte[]> decoder_memory_;
  ZSTD_CCtx* encoder_ = nullptr;  // in encoder_memory_
  ZSTD_DCtx* decoder_ = nullptr;  // in decoder_memory_
};

}  // namespace

Result<std::unique_ptr<BlockCodec>> MakeZstdCodec() {
  auto codec = std::make_unique<ZstdCodec>();
  SS_TRY(codec->Init());
  return std::unique_ptr<BlockCodec>(std::move(codec));
}

}  // namespace shadowserve
