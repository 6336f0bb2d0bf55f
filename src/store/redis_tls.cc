// TLS of a Redis connection by OpenSSL (1.1.1 or later): the only file that knows it.
//
// SSL_read writes straight into the final buffer (no memory BIO between), at most one record a
// call. The server's certificate is always verified: chain, host name or IP address, TLS 1.2 or
// later.
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/deleter.h"
#include "store/redis_stream.h"

namespace shadowserve {
namespace {

constexpr size_t kRecordBytes = 16 * 1024;

std::string LastError() {
  char text[256] = "unknown error";
  const unsigned long code = ERR_peek_last_error();
  if (code != 0) ERR_error_string_n(code, text, sizeof(text));
  ERR_clear_error();
  return text;
}

using SslContext = std::unique_ptr<SSL_CTX, Deleter<SSL_CTX_free>>;
using Ssl = std::unique_ptr<SSL, Deleter<SSL_free>>;

// OpenSSL's own socket BIO calls write(), which kills the process by SIGPIPE when the server is
// gone. The descriptor travels as the BIO's data.
int FdOf(BIO* bio) {
  return static_cast<int>(reinterpret_cast<intptr_t>(BIO_get_data(bio)));
}
int ResultOf(BIO* bio, ssize_t moved, void (*retry)(BIO*)) {
  BIO_clear_retry_flags(bio);
  if (moved < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) retry(bio);
  return static_cast<int>(moved);
}
int BioWrite(BIO* bio, const char* data, int bytes) {
  return ResultOf(bio, send(FdOf(bio), data, static_cast<size_t>(bytes), MSG_NOSIGNAL),
                  [](BIO* each) { BIO_set_retry_write(each); });
}
int BioRead(BIO* bio, char* data, int bytes) {
  return ResultOf(bio, recv(FdOf(bio), data, static_cast<size_t>(bytes), 0),
                  [](BIO* each) { BIO_set_retry_read(each); });
}
long BioControl(BIO*, int command, long, void*) {
  return command == BIO_CTRL_FLUSH ? 1 : 0;
}
using BioMethod = std::unique_ptr<BIO_METHOD, Deleter<BIO_meth_free>>;
BioMethod MakeBioMethod() {
  BioMethod method(BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "socket"));
  if (method == nullptr || BIO_meth_set_write(method.get(), BioWrite) != 1 ||
      BIO_meth_set_read(method.get(), BioRead) != 1 ||
      BIO_meth_set_ctrl(method.get(), BioControl) != 1) {
    return nullptr;
  }
  return method;
}

class TlsStream final : public RedisStream {
 public:
  explicit TlsStream(Ssl ssl) : ssl_(std::move(ssl)) {}

  StreamResult Handshake() override {
    const int done = SSL_connect(ssl_.get());
    return done == 1 ? StreamResult{} : Failed(done);
  }

  StreamResult Receive(std::span<iovec> places) override {
    size_t received = 0;
    for (const iovec& place : places) {
      size_t filled = 0;
      while (filled < place.iov_len) {
        size_t bytes = 0;
        const int done = SSL_read_ex(ssl_.get(), static_cast<char*>(place.iov_base) + filled,
                                     place.iov_len - filled, &bytes);
        if (done != 1) {
          if (received == 0) return Failed(done);
          // What came is delivered first; an end shows again at the next call.
          ERR_clear_error();
          return {StreamState::kDone, received, false};
        }
        blocked_ = false;
        filled += bytes;
        received += bytes;
      }
    }
    return {StreamState::kDone, received, false};
  }

  // A record at a time: small pieces are put together first. What a call sends depends only on the
  // place in the stream, as a retry has to.
  StreamResult Send(std::span<const iovec> pieces) override {
    std::span<const std::byte> record(static_cast<const std::byte*>(pieces[0].iov_base),
                                      std::min(pieces[0].iov_len, kRecordBytes));
    if (record.size() < kRecordBytes && pieces.size() > 1) {
      size_t size = 0;
      for (const iovec& piece : pieces) {
        const size_t take = std::min(piece.iov_len, kRecordBytes - size);
        std::memcpy(record_.data() + size, piece.iov_base, take);
        size += take;
      }
      record = std::span(record_).first(size);
    }
    size_t sent = 0;
    const int done = SSL_write_ex(ssl_.get(), record.data(), record.size(), &sent);
    return done == 1 ? StreamResult{StreamState::kDone, sent, false} : Failed(done);
  }

  bool HasBuffered() const override { return SSL_has_pending(ssl_.get()) == 1 && !blocked_; }
  std::string Error() const override { return error_; }

 private:
  StreamResult Failed(int done) {
    const int why = SSL_get_error(ssl_.get(), done);
    blocked_ = why == SSL_ERROR_WANT_READ;
    if (why == SSL_ERROR_WANT_READ) return {StreamState::kWouldBlock, 0, false};
    if (why == SSL_ERROR_WANT_WRITE) return {StreamState::kWouldBlock, 0, true};
    const long verdict = SSL_get_verify_result(ssl_.get());
    if (verdict != X509_V_OK) {
      error_ = "TLS: the server's certificate is not trusted: " +
               std::string(X509_verify_cert_error_string(verdict));
    } else if (why == SSL_ERROR_SSL) {
      error_ = "TLS: " + LastError();
    }
    ERR_clear_error();
    return {StreamState::kClosed, 0, false};
  }

  Ssl ssl_;
  std::array<std::byte, kRecordBytes> record_;
  bool blocked_ = false;  // nothing since the last read: what it holds is part of a record
  std::string error_;
};

class OpenSslContext final : public TlsContext {
 public:
  OpenSslContext(SslContext context, BioMethod bio, std::string server_name)
      : context_(std::move(context)), bio_(std::move(bio)), server_name_(std::move(server_name)) {}

  Result<std::unique_ptr<RedisStream>> MakeStream(int fd, const std::string& host) override {
    const std::string& name = server_name_.empty() ? host : server_name_;
    Ssl ssl(SSL_new(context_.get()));
    BIO* const bio = BIO_new(bio_.get());
    if (ssl == nullptr || bio == nullptr) {
      BIO_free(bio);
      return Status(StatusCode::kUnavailable, "TLS: " + LastError());
    }
    BIO_set_data(bio, reinterpret_cast<void*>(static_cast<intptr_t>(fd)));
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl.get(), bio, bio);  // it is the stream's now
    // An IP address is looked for among the certificate's addresses, anything else among its names.
    X509_VERIFY_PARAM* const verify = SSL_get0_param(ssl.get());
    if (X509_VERIFY_PARAM_set1_ip_asc(verify, name.c_str()) != 1) {
      ERR_clear_error();
      SSL_set_tlsext_host_name(ssl.get(), name.c_str());
      if (SSL_set1_host(ssl.get(), name.c_str()) != 1) {
        return Status(StatusCode::kUnavailable, "TLS: " + LastError());
      }
    }
    return std::unique_ptr<RedisStream>(std::make_unique<TlsStream>(std::move(ssl)));
  }

 private:
  SslContext context_;
  BioMethod bio_;
  const std::string server_name_;
};

Status BadFile(const char* option, const std::string& path) {
  return Status(StatusCode::kInvalidArgument,
                "store URL: option '" + std::string(option) + "': '" + path + "': " + LastError());
}

}  // namespace

Result<std::unique_ptr<TlsContext>> MakeTlsContext(const TlsOptions& options) {
  SslContext context(SSL_CTX_new(TLS_client_method()));
  BioMethod bio = MakeBioMethod();
  if (context == nullptr || bio == nullptr ||
      SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION) != 1) {
    return Status(StatusCode::kUnavailable, "TLS: " + LastError());
  }
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  SSL_CTX_set_mode(context.get(),
                   SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_options(context.get(), SSL_OP_NO_RENEGOTIATION);
  if (options.ca_file.empty()) {
    if (SSL_CTX_set_default_verify_paths(context.get()) != 1) {
      return Status(StatusCode::kUnavailable, "TLS: " + LastError());
    }
  } else if (SSL_CTX_load_verify_locations(context.get(), options.ca_file.c_str(), nullptr) != 1) {
    return BadFile("ca_file", options.ca_file);
  }
  if (!options.cert_file.empty()) {
    if (SSL_CTX_use_certificate_chain_file(context.get(), options.cert_file.c_str()) != 1) {
      return BadFile("cert_file", options.cert_file);
    }
    if (SSL_CTX_use_PrivateKey_file(context.get(), options.key_file.c_str(), SSL_FILETYPE_PEM) !=
            1 ||
        SSL_CTX_check_private_key(context.get()) != 1) {
      return BadFile("key_file", options.key_file);
    }
  }
  return std::unique_ptr<TlsContext>(
      std::make_unique<OpenSslContext>(std::move(context), std::move(bio), options.server_name));
}

}  // namespace shadowserve
