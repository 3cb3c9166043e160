// What the addon's files share. The functions and their shapes are described in
// src/vm/addon-types.ts.
#ifndef CLEARVM_ADDON_ADDON_H_
#define CLEARVM_ADDON_ADDON_H_

#include <napi.h>

#include <initializer_list>

#include "native/base/result.h"

namespace clearvm::addon {

// A JavaScript Error with `code`, and `errno` and `syscall` where a system call failed, to be
// thrown.
Napi::Error ToJsError(Napi::Env env, const Error& error);
// The same properties on a plain object, for errors that are part of a result.
Napi::Object ToJsObject(Napi::Env env, const Error& error);

// Calls a function of JavaScript's from the event loop. What it throws is an uncaught exception
// there; where the process is at its end, and JavaScript can be called no more, nothing happens.
void CallFromLoop(Napi::FunctionReference& function, const Napi::AsyncContext& context,
                  std::initializer_list<napi_value> arguments);

// Each adds its file's functions to the addon's exports.
// spawnVmm, socketPair, pipe, closeFd, releaseFd, lockFile, appendToJournal, exit
void RegisterSpawn(Napi::Env env, Napi::Object exports);
void RegisterChannel(Napi::Env env, Napi::Object exports);  // openChannel
void RegisterExecute(Napi::Env env, Napi::Object exports);
void RegisterFiles(Napi::Env env, Napi::Object exports);     // makeContainerPlaces, writeFile
void RegisterMount(Napi::Env env, Napi::Object exports);     // makeNetwork, mountTmpfs
void RegisterProbe(Napi::Env env, Napi::Object exports);     // probeKvm
void RegisterSocket(Napi::Env env, Napi::Object exports);    // listenUnix, connectUnix, sendFds
void RegisterTerminal(Napi::Env env, Napi::Object exports);  // rawTerminal, restoreTerminal
void RegisterPayload(Napi::Env env, Napi::Object exports);   // runPayload
void RegisterView(Napi::Env env, Napi::Object exports);      // makeView, openInRoot

}  // namespace clearvm::addon

#endif  // CLEARVM_ADDON_ADDON_H_
