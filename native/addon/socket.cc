// listenUnix, connectUnix, sendFds: see src/vm/addon-types.ts.
#include <sys/socket.h>

#include <array>
#include <cstring>

#include "native/addon/addon.h"
#include "native/base/unix_socket.h"
#include "native/protocol/control.h"

namespace clearvm::addon {
namespace {

constexpr size_t kMaxFds = CLEARVM_BECOME_FDS_MAX;

Napi::Value ToNumber(Napi::Env env, Result<UniqueFd> socket) {
  if (!socket.ok()) throw ToJsError(env, socket.error());
  return Napi::Number::New(env, socket.value().release());
}

Napi::Value Listen(const Napi::CallbackInfo& info) {
  return ToNumber(info.Env(), ListenUnix(info[0].As<Napi::String>()));
}

Napi::Value Connect(const Napi::CallbackInfo& info) {
  return ToNumber(info.Env(), ConnectUnix(info[0].As<Napi::String>()));
}

Napi::Value SendFds(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const int socket = info[0].As<Napi::Number>().Int32Value();
  const auto bytes = info[1].As<Napi::Uint8Array>();
  const auto fds = info[2].As<Napi::Array>();
  const size_t count = fds.Length();
  if (count == 0 || count > kMaxFds || bytes.ByteLength() == 0) {
    throw Napi::TypeError::New(env, "sendFds(socket, bytes, fds)");
  }
  alignas(cmsghdr) std::array<uint8_t, CMSG_SPACE(kMaxFds * sizeof(int))> control{};
  iovec part{const_cast<uint8_t*>(bytes.Data()), bytes.ByteLength()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = CMSG_SPACE(count * sizeof(int));
  cmsghdr* entry = CMSG_FIRSTHDR(&message);
  entry->cmsg_level = SOL_SOCKET;
  entry->cmsg_type = SCM_RIGHTS;
  entry->cmsg_len = CMSG_LEN(count * sizeof(int));
  for (size_t i = 0; i < count; i++) {
    const int fd = fds.Get(static_cast<uint32_t>(i)).As<Napi::Number>().Int32Value();
    std::memcpy(CMSG_DATA(entry) + i * sizeof fd, &fd, sizeof fd);
  }
  ssize_t sent;
  do sent = ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  while (sent < 0 && errno == EINTR);
  if (sent < 0) {
    throw ToJsError(env, SystemError("ERR_SOCKET", "sendmsg", "cannot pass descriptors on"));
  }
  return Napi::Number::New(env, static_cast<double>(sent));
}

}  // namespace

void RegisterSocket(Napi::Env env, Napi::Object exports) {
  exports.Set("listenUnix", Napi::Function::New(env, Listen));
  exports.Set("connectUnix", Napi::Function::New(env, Connect));
  exports.Set("sendFds", Napi::Function::New(env, SendFds));
}

}  // namespace clearvm::addon
