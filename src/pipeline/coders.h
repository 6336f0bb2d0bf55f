// One thread's quantizers and block codecs, by the ids that segment format v1 stores.
#ifndef SHADOWSERVE_PIPELINE_CODERS_H_
#define SHADOWSERVE_PIPELINE_CODERS_H_

#include <array>
#include <memory>

#include "base/result.h"
#include "codec/codec.h"
#include "codec/codec_table.h"
#include "format/object_name.h"
#include "quant/quantizer.h"

namespace shadowserve {

class Coders {
 public:
  static Result<Coders> Create() {
    Coders coders;
    for (const Profile profile : kProfiles) {
      for (const CodecId codec : {CodecId::kNone, CodecId::kZstd}) {
        SS_TRY_ASSIGN(coders.quantizers_[IndexOf({profile, codec})],
                      MakeQuantizer({profile, codec}));
      }
    }
    for (const CodecId codec : {CodecId::kDeflate, CodecId::kZstd}) {
      SS_TRY_ASSIGN(coders.codecs_[static_cast<size_t>(codec)],
                    MakeBlockCodec(static_cast<uint8_t>(codec)));
    }
    return coders;
  }

  const Quantizer& quantizer(StoredForm form) const { return *quantizers_[IndexOf(form)]; }
  // REQUIRES: codec is not kNone.
  BlockCodec& codec(CodecId codec) const { return *codecs_[static_cast<size_t>(codec)]; }

 private:
  Coders() = default;
  // A quantizer asks of the codec only whether there is one.
  static size_t IndexOf(StoredForm form) {
    return (static_cast<size_t>(form.profile) - 1) * 2 + (form.codec == CodecId::kNone ? 0 : 1);
  }

  std::array<std::unique_ptr<const Quantizer>, kProfiles.size() * 2> quantizers_;
  std::array<std::unique_ptr<BlockCodec>, 3> codecs_;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_PIPELINE_CODERS_H_
