{
  "target_defaults": {
    "cflags!": ["-fno-exceptions", "-O3"],
    "cflags_cc!": ["-fno-exceptions", "-fno-rtti", "-std=gnu++17"],
    "cflags_cc": ["-std=c++20", "-Wall", "-Wextra", "-Werror", "-fPIC", "-fno-rtti"],
    "include_dirs": ["."],
    "configurations": {
      "Release": { "cflags!": ["-O3"], "cflags": ["-O2", "-g1", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong"] }
    }
  },
  "targets": [
    {
      "target_name": "clearvm_native",
      "type": "static_library",
      "sources": [
        "<!@(ls native/base/*.cc native/kvm/*.cc native/boot/*.cc native/virtio/*.cc native/p9/*.cc native/jail/*.cc native/vmm/*.cc native/monitor/*.cc)"
      ]
    },
    {
      "target_name": "clearvm_addon",
      "dependencies": ["clearvm_native"],
      "sources": ["<!@(ls native/addon/*.cc)"],
      "include_dirs": ["<!@(node -p \"require('node-addon-api').include_dir\")"],
      "defines": ["NAPI_VERSION=9", "NAPI_CPP_EXCEPTIONS"],
      "cflags_cc": ["-fexceptions"]
    },
    {
      "target_name": "clearvm-vmm",
      "type": "executable",
      "dependencies": ["clearvm_native"],
      "sources": ["native/main.cc"],
      "ldflags": ["-static-pie", "-Wl,-z,relro,-z,now", "-Wl,--gc-sections"]
    },
    {
      "target_name": "clearvm-monitor",
      "type": "executable",
      "dependencies": ["clearvm_native"],
      "sources": ["native/monitor_main.cc"],
      "ldflags": ["-static-pie", "-Wl,-z,relro,-z,now", "-Wl,--gc-sections"]
    },
    {
      "target_name": "clearvm-userns",
      "type": "executable",
      "dependencies": ["clearvm_native"],
      "sources": ["native/userns_main.cc"],
      "ldflags": ["-static-pie", "-Wl,-z,relro,-z,now", "-Wl,--gc-sections"]
    }
  ]
}
