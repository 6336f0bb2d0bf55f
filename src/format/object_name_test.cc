#include "format/object_name.h"

#include <gtest/gtest.h>

#include <string>
#include <unordered_set>

namespace shadowserve {
namespace {

const std::string kKeyHex = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const std::string kText = "ss1:{" + kKeyHex + "}:q8.deflate:l28+4:h1of8:seg";

ObjectName ExampleName() {
  ObjectName name;
  name.key = *DigestFromHex(kKeyHex);
  name.profile = Profile::kQ8;
  name.codec = CodecId::kDeflate;
  name.first_layer = 28;
  name.layer_count = 4;
  name.head_group = 1;
  name.head_groups = 8;
  return name;
}

TEST(ObjectName, PrintsItsGrammar) {
  EXPECT_EQ(ToString(ExampleName()), kText);
  EXPECT_EQ(ToString(ExampleName().AsKind(ObjectKind::kMarker)),
            kText.substr(0, kText.size() - 3) + "mark");
}

TEST(ObjectName, RoundTripsEveryProfileCodecAndKind) {
  for (Profile profile : kProfiles) {
    for (CodecId codec : {CodecId::kNone, CodecId::kDeflate, CodecId::kZstd}) {
      for (ObjectKind kind : {ObjectKind::kSegment, ObjectKind::kMarker}) {
        ObjectName name = ExampleName().AsKind(kind);
        name.profile = profile;
        name.codec = codec;
        EXPECT_EQ(*ParseObjectName(ToString(name)), name);
      }
    }
  }
}

TEST(ObjectName, TheLongestNameFits) {
  ObjectName name = ExampleName().AsKind(ObjectKind::kMarker);
  name.profile = Profile::kLossless;
  name.first_layer = name.layer_count = name.head_group = name.head_groups = 65535;
  EXPECT_EQ(ToString(name),
            "ss1:{" + kKeyHex + "}:lossless.deflate:l65535+65535:h65535of65535:mark");
}

TEST(ObjectName, RefusesEveryOtherText) {
  const std::string head = "ss1:{" + kKeyHex + "}";
  for (const std::string& text :
       {std::string(),
        std::string("ss1:{"),
        head,
        kText + " ",
        kText + ":",
        " " + kText,
        "ss2" + kText.substr(3),                                     // version
        "ss1:{" + kKeyHex.substr(1) + "}:raw.none:l0+1:h0of1:seg",   // 63 digits
        "ss1:{" + kKeyHex + "0}:raw.none:l0+1:h0of1:seg",            // 65 digits
        "ss1:{A" + kKeyHex.substr(1) + "}:raw.none:l0+1:h0of1:seg",  // upper case
        head + ":RAW.none:l0+1:h0of1:seg",
        head + ":.none:l0+1:h0of1:seg",
        head + ":raw.lz4:l0+1:h0of1:seg",
        head + ":raw.:l0+1:h0of1:seg",
        head + ":raw.none:l00+1:h0of1:seg",
        head + ":raw.none:l0+01:h0of1:seg",
        head + ":raw.none:l-1+1:h0of1:seg",
        head + ":raw.none:l+1:h0of1:seg",
        head + ":raw.none:l0+0:h0of1:seg",     // no layers
        head + ":raw.none:l1024+1:h0of1:seg",  // above kLayersMax
        head + ":raw.none:l0+65536:h0of1:seg",
        head + ":raw.none:l0+1:h1of1:seg",
        head + ":raw.none:l0+1:h0of0:seg",
        head + ":raw.none:l0+1:h0of1025:seg",
        head + ":raw.none:l0+1:h0of1:",
        head + ":raw.none:l0+1:h0of1:segment",
        head + ":raw.none:l0+1:h0of1"}) {
    const Result<ObjectName> result = ParseObjectName(text);
    ASSERT_FALSE(result.ok()) << text;
    EXPECT_EQ(result.status().code(), StatusCode::kInvalidArgument) << text;
  }
}

TEST(ObjectName, EveryChangedCharacterIsRefusedOrAnotherName) {
  for (size_t at = 0; at < kText.size(); ++at) {
    for (char other : std::string("0a:}+.{ \xFF", 9)) {
      std::string text = kText;
      if (text[at] == other) continue;
      text[at] = other;
      const Result<ObjectName> result = ParseObjectName(text);
      if (result.ok()) {
        EXPECT_EQ(ToString(*result), text);
      }
    }
  }
}

TEST(ObjectName, DigestIsTheSha256OfItsText) {
  EXPECT_EQ(NameDigest(ExampleName()), Sha256(std::as_bytes(std::span(kText))));
}

TEST(ObjectName, SiblingsOfAChunkHashApart) {
  std::unordered_set<size_t> hashes;
  size_t names = 0;
  for (uint16_t layer = 0; layer < 64; ++layer) {
    for (uint16_t group = 0; group < 8; ++group) {
      for (ObjectKind kind : {ObjectKind::kSegment, ObjectKind::kMarker}) {
        ObjectName name = ExampleName().AsKind(kind);
        name.first_layer = layer;
        name.head_group = group;
        hashes.insert(ObjectNameHash()(name));
        ++names;
      }
    }
  }
  EXPECT_EQ(hashes.size(), names);
}

TEST(ProfileAndCodec, RefuseUnknownNamesAndListTheKnown) {
  EXPECT_EQ(ParseProfile("Q8").status().code(), StatusCode::kUnsupported);
  EXPECT_EQ(ParseProfile("q9").status().message(),
            "profile 'q9' is not one of raw, lossless, q8, balanced");
  EXPECT_EQ(ParseCodec("lz4").status().message(), "codec 'lz4' is not one of deflate, zstd, none");
}

}  // namespace
}  // namespace shadowserve
