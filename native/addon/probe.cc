#include "native/kvm/probe.h"

#include "native/addon/addon.h"

namespace clearvm::addon {
namespace {

Napi::Value ProbeKvm(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (info.Length() < 1 || !info[0].IsString()) {
    throw Napi::TypeError::New(env, "probeKvm(path: string)");
  }
  const kvm::ProbeReport report = kvm::Probe(info[0].As<Napi::String>());
  Napi::Object result = Napi::Object::New(env);
  result.Set("verdict", kvm::VerdictName(report.verdict));
  result.Set("reason", report.reason);
  if (report.error) result.Set("error", ToJsObject(env, *report.error));
  result.Set("apiVersion", report.api_version);
  result.Set("createVmMs", report.create_vm_ms);
  result.Set("ring0InstructionsPerSecond", report.ring0_instructions_per_second);
  result.Set("hostInstructionsPerSecond", report.host_instructions_per_second);
  Napi::Array capabilities = Napi::Array::New(env);
  for (const kvm::ProbeReport::Capability& from : report.capabilities) {
    Napi::Object to = Napi::Object::New(env);
    to.Set("name", from.name);
    to.Set("value", from.value);
    to.Set("required", Napi::Boolean::New(env, from.required));
    capabilities.Set(capabilities.Length(), to);
  }
  result.Set("capabilities", capabilities);
  Napi::Array checks = Napi::Array::New(env);
  for (const kvm::ProbeReport::Check& from : report.checks) {
    Napi::Object to = Napi::Object::New(env);
    to.Set("name", from.name);
    to.Set("passed", Napi::Boolean::New(env, from.passed));
    to.Set("detail", from.detail);
    checks.Set(checks.Length(), to);
  }
  result.Set("checks", checks);
  return result;
}

}  // namespace

void RegisterProbe(Napi::Env env, Napi::Object exports) {
  exports.Set("probeKvm", Napi::Function::New(env, ProbeKvm));
}

}  // namespace clearvm::addon
