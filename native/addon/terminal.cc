// rawTerminal, restoreTerminal: see src/vm/addon-types.ts.
#include <termios.h>

#include <cstring>

#include "native/addon/addon.h"

namespace clearvm::addon {
namespace {

Napi::Value RawTerminal(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const int fd = info[0].As<Napi::Number>().Int32Value();
  termios saved;
  if (::tcgetattr(fd, &saved) != 0) {
    throw ToJsError(env, SystemError("ERR_TERMINAL", "tcgetattr", "cannot read the terminal"));
  }
  termios raw = saved;
  ::cfmakeraw(&raw);
  if (::tcsetattr(fd, TCSADRAIN, &raw) != 0) {
    throw ToJsError(env, SystemError("ERR_TERMINAL", "tcsetattr", "cannot set the terminal"));
  }
  return Napi::Buffer<uint8_t>::Copy(env, reinterpret_cast<const uint8_t*>(&saved), sizeof saved);
}

void RestoreTerminal(const Napi::CallbackInfo& info) {
  const auto bytes = info[1].As<Napi::Uint8Array>();
  termios saved;
  if (bytes.ByteLength() != sizeof saved) {
    throw Napi::TypeError::New(info.Env(), "restoreTerminal(fd, saved)");
  }
  std::memcpy(&saved, bytes.Data(), sizeof saved);
  // A terminal that is gone needs nothing.
  (void)::tcsetattr(info[0].As<Napi::Number>().Int32Value(), TCSADRAIN, &saved);
}

}  // namespace

void RegisterTerminal(Napi::Env env, Napi::Object exports) {
  exports.Set("rawTerminal", Napi::Function::New(env, RawTerminal));
  exports.Set("restoreTerminal", Napi::Function::New(env, RestoreTerminal));
}

}  // namespace clearvm::addon
