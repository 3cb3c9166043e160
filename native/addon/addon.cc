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
    RegisterChannel(env, exports);
    RegisterExecute(env, exports);
    RegisterFiles(env, exports);
    RegisterMount(env, exports);
    RegisterProbe(env, exports);
    RegisterPayload(env, exports);
    RegisterSocket(env, exports);
    RegisterTerminal(env, exports);
    RegisterView(env, exports);
  }
};

}  // namespace

void CallFromLoop(Napi::FunctionReference& function, const Napi::AsyncContext& context,
                  std::initializer_list<napi_value> arguments) {
  const Napi::Env env = function.Env();
  try {
    function.MakeCallback(env.Global(), arguments, context);
  } catch (const Napi::Error& error) {
    // At the end of the process the error says nothing.
    if (error.what()[0] != 0) napi_fatal_exception(env, error.Value());
  }
}

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
