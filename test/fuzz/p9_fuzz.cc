// The 9P server under a stream of messages. The input is a program: an opcode byte, then operands
// by the message's schema, short enough that mutations stay meaningful (fids and names are picked
// from small tables by one byte each). Opcode kRaw sends bytes as they are. Seeds:
// test/fuzz/make_p9_corpus.mjs.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "native/p9/protocol.h"
#include "native/p9/server.h"

namespace {

namespace fs = std::filesystem;
using namespace clearvm::p9;

constexpr uint8_t kRaw = 0;
constexpr size_t kMsize = 8192;
constexpr int kMaxMessages = 200;

constexpr std::string_view kNames[] = {"a",
                                       "b",
                                       "dir",
                                       "file",
                                       "link",
                                       "fifo",
                                       "..",
                                       ".",
                                       "",
                                       "a/b",
                                       "user.a",
                                       "user.clearvm.stat",
                                       "trusted.overlay.x",
                                       "system.posix_acl_access",
                                       "security.capability",
                                       "9P2000.L"};

// Operands of each message: f fid, s name, d 32 bits, D 32 bits of which one byte is given, b 8
// bits, w 16 bits, q 64 bits of which two bytes are given, x data.
struct Schema {
  uint8_t type;
  const char* operands;
};
constexpr Schema kSchemas[] = {
    {kTversion, "Ds"},    {kTattach, "ffssD"},       {kTflush, "w"},
    {kTwalk, "ffn"},      {kTlopen, "fd"},           {kTlcreate, "fsddD"},
    {kTread, "fqd"},      {kTwrite, "fqx"},          {kTreaddir, "fqd"},
    {kTgetattr, "fq"},    {kTsetattr, "fDdDDqqqqq"}, {kTstatfs, "f"},
    {kTmkdir, "fsdD"},    {kTmknod, "fsdDDD"},       {kTsymlink, "fssD"},
    {kTreadlink, "f"},    {kTlink, "ffs"},           {kTrename, "ffs"},
    {kTrenameat, "fsfs"}, {kTunlinkat, "fsd"},       {kTremove, "f"},
    {kTfsync, "fD"},      {kTlock, "fbDqqDs"},       {kTgetlock, "fbqqDs"},
    {kTxattrwalk, "ffs"}, {kTxattrcreate, "fsqD"},   {kTclunk, "f"},
    {kTauth, "fss"},
};
constexpr size_t kSchemaCount = sizeof(kSchemas) / sizeof(kSchemas[0]);

class Program {
 public:
  Program(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  bool empty() const { return size_ == 0; }
  uint8_t Byte() {
    if (size_ == 0) return 0;
    size_--;
    return *data_++;
  }
  std::string Bytes(size_t count) {
    const size_t taken = count < size_ ? count : size_;
    std::string bytes(reinterpret_cast<const char*>(data_), taken);
    data_ += taken;
    size_ -= taken;
    return bytes;
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

void Put(std::string* to, uint64_t value, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) to->push_back(static_cast<char>(value >> (8 * i)));
}

// A small number, or one at the edge of its type.
uint64_t Number(uint8_t byte) {
  if (byte == 0xff) return ~uint64_t{0};
  if (byte == 0xfe) return uint64_t{1} << 63;
  return byte;
}

void PutName(std::string* to, Program* program) {
  const uint8_t pick = program->Byte();
  std::string name;
  if (pick < 0xe0) {
    name = kNames[pick % (sizeof(kNames) / sizeof(kNames[0]))];
  } else if (pick < 0xf0) {
    name.assign(size_t{240} + pick % 32, 'n');
  } else {
    name = program->Bytes(pick % 16);
  }
  Put(to, name.size(), 2);
  *to += name;
}

std::string BuildMessage(const Schema& schema, Program* program) {
  std::string fields;
  for (const char* operand = schema.operands; *operand != '\0'; operand++) {
    switch (*operand) {
      case 'f': {
        const uint8_t fid = program->Byte();
        Put(&fields, fid == 0xff ? ~uint64_t{0} : fid % 8, 4);
        break;
      }
      case 's':
        PutName(&fields, program);
        break;
      case 'n': {
        const uint8_t count = program->Byte() % 20;
        Put(&fields, count, 2);
        for (uint8_t i = 0; i < count; i++) PutName(&fields, program);
        break;
      }
      case 'd':
        for (int i = 0; i < 4; i++) Put(&fields, program->Byte(), 1);
        break;
      case 'D':
        Put(&fields, Number(program->Byte()), 4);
        break;
      case 'b':
        Put(&fields, program->Byte(), 1);
        break;
      case 'w':
        Put(&fields, program->Byte(), 2);
        break;
      case 'q': {
        const uint8_t low = program->Byte();
        Put(&fields, Number(low) | uint64_t{program->Byte()} << 8, 8);
        break;
      }
      case 'x': {
        const std::string data = program->Bytes(program->Byte());
        Put(&fields, data.size(), 4);
        fields += data;
        break;
      }
    }
  }
  std::string message;
  Put(&message, kHeaderBytes + fields.size(), 4);
  Put(&message, schema.type, 1);
  Put(&message, 1, 2);
  return message + fields;
}

void Exchange(Server* server, const std::string& message, size_t part) {
  // Exact allocations, so that the sanitizer sees every byte too many.
  std::vector<char> request(message.begin(), message.end());
  std::vector<char> reply(part % 7 == 6 ? part * 5 : kMsize);
  const size_t cut = request.empty() ? 0 : part % request.size();
  const size_t reply_cut = reply.empty() ? 0 : (part * 3) % reply.size();
  const iovec in[] = {{request.data(), cut}, {request.data() + cut, request.size() - cut}};
  const iovec out[] = {{reply.data(), reply_cut},
                       {reply.data() + reply_cut, reply.size() - reply_cut}};
  const size_t size = server->Handle(in, out);
  if (size > reply.size() || (size != 0 && size < kHeaderBytes)) std::abort();
}

struct Playground {
  fs::path top;
  fs::path outside;
  Playground() {
    umask(0);
    const char* base = std::getenv("TMPDIR");
    std::string name = std::string(base != nullptr ? base : "/tmp") + "/p9-fuzz-XXXXXX";
    if (mkdtemp(name.data()) == nullptr) std::abort();
    top = name;
    outside = top / "outside";
    fs::create_directory(outside);
    close(open((outside / "secret").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  }
  ~Playground() {
    std::error_code ignored;
    fs::remove_all(top, ignored);
  }
  // The export's directory, the same at the start of every run.
  fs::path Fresh() {
    const fs::path root = top / "export";
    std::error_code ignored;
    fs::remove_all(root, ignored);
    fs::create_directories(root / "dir/a");
    for (const char* name : {"file", "dir/large"}) {
      const int file = open((root / name).c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
      if (ftruncate(file, 40 << 10) != 0) std::abort();
      close(file);
    }
    fs::create_symlink("../outside/secret", root / "link");
    mkfifo((root / "fifo").c_str(), 0600);
    return root;
  }
  void Check() const {
    struct stat attributes;
    if (stat((outside / "secret").c_str(), &attributes) != 0 || attributes.st_size != 0 ||
        attributes.st_mode != (S_IFREG | 0600) || attributes.st_nlink != 1) {
      std::abort();
    }
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Playground playground;
  Program program(data, size);
  const uint8_t setup = program.Byte();
  const fs::path directory = playground.Fresh();
  Export config;
  config.root.reset(open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  config.read_only = (setup & 1) != 0;
  config.ownership = (setup & 2) != 0 ? Ownership::kXattrs : Ownership::kHost;
  config.max_message = kMsize;
  config.max_fids = 6;
  // Room for one of the files: each further one has to wait for its end.
  constexpr size_t kWindow = 12 * 4096;
  static void* const window = mmap(nullptr, kWindow, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (window == MAP_FAILED) std::abort();
  config.window = {static_cast<uint8_t*>(window), kWindow};
  auto server = Server::Create(std::move(config));
  if (!server.ok()) std::abort();
  server.value()->UseWindow();
  Server* const p9 = server.value().get();
  std::string message;
  Put(&message, kHeaderBytes + 4 + 2 + 8, 4);
  Put(&message, kTversion, 1);
  Put(&message, 0xffff, 2);
  Put(&message, kMsize, 4);
  Put(&message, 8, 2);
  Exchange(p9, message + "9P2000.L", 0);
  message.clear();
  Put(&message, kHeaderBytes + 4 + 4 + 2 + 2 + 4, 4);
  Put(&message, kTattach, 1);
  Put(&message, 1, 2);
  Put(&message, 0, 4);
  Put(&message, kNoFid, 4);
  Put(&message, 0, 4);
  Put(&message, 0, 4);
  Exchange(p9, message, 0);
  for (int i = 0; i < kMaxMessages && !program.empty(); i++) {
    const uint8_t opcode = program.Byte();
    if (opcode == kRaw) {
      const uint8_t part = program.Byte();
      Exchange(p9, program.Bytes(program.Byte()), part);
    } else {
      const std::string built = BuildMessage(kSchemas[(opcode - 1) % kSchemaCount], &program);
      Exchange(p9, built, setup >> 2);
    }
  }
  server.value().reset();
  playground.Check();
  return 0;
}
