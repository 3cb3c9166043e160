// What the addon's files share. The functions and their shapes are described in
// src/vm/addon-types.ts.
#ifndef CLEARVM_ADDON_ADDON_H_
#define CLEARVM_ADDON_ADDON_H_

#include <napi.h>

#include "native/base/result.h"

namespace clearvm::addon {

// A JavaScript Error with `code`, and `errno` and `syscall` where a system call failed, to be
// thrown.
Napi::Error ToJsError(Napi::Env env, const Error& error);
// The same properties on a plain object, for errors that are part of a result.
Napi::Object ToJsObject(Napi::Env env, const Error& error);

// Each adds its file's functions to the addon's exports.
void RegisterSpawn(Napi::Env env, Napi::Object exports);    // spawnVmm, socketPair, pipe, closeFd
void RegisterProbe(Napi::Env env, Napi::Object exports);    // probeKvm
void RegisterPayload(Napi::Env env, Napi::Object exports);  // runPayload

}  // namespace clearvm::addon

#endif  // CLEARVM_ADDON_ADDON_H_
