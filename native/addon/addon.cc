#include "native/addon/addon.h"

namespace clearvm::addon {
namespace {

void SetProperties(Napi::Object target, const Error& error) {
  target.Set("code", error.code);
  if (error.sys_errno != 0) target.Set("errno", error.sys_errno);
  if (!error.syscall.empty()) target.Set("syscall", error.syscall);
}

// One per environment (Node's main thread, each worker); it keeps no state, so that there is
// nothing to share.
class ClearVmAddon : public Napi::Addon<ClearVmAddon> {
 public:
  ClearVmAddon(Napi::Env env, Napi::Object exports) {
    RegisterSpawn(env, exports);
    RegisterProbe(env, exports);
    RegisterPayload(env, exports);
  }
};

}  // namespace

Napi::Error ToJsError(Napi::Env env, const Error& error) {
  Napi::Error result = Napi::Error::New(env, error.message);
  SetProperties(result.Value(), error);
  return result;
}

Napi::Object ToJsObject(Napi::Env env, const Error& error) {
  Napi::Object result = Napi::Object::New(env);
  result.Set("message", error.message);
  SetProperties(result, error);
  return result;
}

NODE_API_ADDON(ClearVmAddon)

}  // namespace clearvm::addon
