#include "rpc/tls.h"

#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <memory>
#include <utility>

#include "base/deleter.h"
#include "base/plain_file.h"

namespace shadowserve {
namespace {

constexpr size_t kFileBytesMax = size_t{1} << 20;

using Bio = std::unique_ptr<BIO, Deleter<BIO_free>>;
using Certificate = std::unique_ptr<X509, Deleter<X509_free>>;
using PrivateKey = std::unique_ptr<EVP_PKEY, Deleter<EVP_PKEY_free>>;

Status Invalid(std::string message) {
  return Status(StatusCode::kInvalidArgument, std::move(message));
}

Result<std::string> ReadFile(const std::string& path, bool secret) {
  SS_TRY_ASSIGN(PlainFile file, ReadPlainFile(path, kFileBytesMax));
  if (secret && (file.permissions & 0007) != 0) {
    return Invalid(
        fmt::format("its mode {:04o} lets every user at the key; chmod 600", file.permissions));
  }
  return std::move(file.text);
}

Bio Over(const std::string& text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// Its first certificate.
Result<Certificate> ParseCertificate(const std::string& text) {
  Certificate certificate(PEM_read_bio_X509(Over(text).get(), nullptr, nullptr, nullptr));
  if (certificate == nullptr) return Invalid("no certificate in PEM form");
  return certificate;
}

// A key under a passphrase is none: nobody is there to ask.
int NoPassphrase(char*, int, int, void*) {
  return -1;
}

Status CheckKey(const std::string& text, X509* certificate) {
  const PrivateKey key(PEM_read_bio_PrivateKey(Over(text).get(), nullptr, NoPassphrase, nullptr));
  if (key == nullptr) return Invalid("no private key in PEM form (or one under a passphrase)");
  if (X509_check_private_key(certificate, key.get()) != 1) {
    return Invalid("not the key of the certificate");
  }
  return OkStatus();
}

template <typename T>
Result<T> Named(const std::string& path, Result<T> result) {
  if (result.ok()) return result;
  return std::move(result).status().WithContext("tls: " + path);
}

}  // namespace

Status CheckTlsFiles(const TlsFiles& files, const Address& address) {
  if (files.empty()) return OkStatus();
  if (!address.path.empty()) {
    return Invalid("tls: only a tcp:// address has TLS; remove the files");
  }
  if (files.ca_file.empty() || files.cert_file.empty() || files.key_file.empty()) {
    return Invalid("tls: takes all three of ca_file, cert_file and key_file, or none");
  }
  return OkStatus();
}

Result<std::optional<TlsIdentity>> ReadTlsFiles(const TlsFiles& files) {
  if (files.empty()) return std::optional<TlsIdentity>();
  TlsIdentity identity;
  SS_TRY_ASSIGN(identity.authorities, Named(files.ca_file, ReadFile(files.ca_file, false)));
  SS_TRY(Named(files.ca_file, ParseCertificate(identity.authorities)).status());
  SS_TRY_ASSIGN(identity.certificates, Named(files.cert_file, ReadFile(files.cert_file, false)));
  SS_TRY_ASSIGN(const Certificate certificate,
                Named(files.cert_file, ParseCertificate(identity.certificates)));
  SS_TRY_ASSIGN(identity.key, Named(files.key_file, ReadFile(files.key_file, true)));
  SS_TRY(CheckKey(identity.key, certificate.get()).WithContext("tls: " + files.key_file));
  return std::optional(std::move(identity));
}

}  // namespace shadowserve
