// A server over a fresh directory, and a client that talks to it through scattered buffers.
#ifndef CLEARVM_TEST_NATIVE_P9_FIXTURE_H_
#define CLEARVM_TEST_NATIVE_P9_FIXTURE_H_

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>

#include "native/p9/server.h"
#include "test/native/p9_client.h"

namespace clearvm::p9::test {

class P9Test : public ::testing::Test {
 protected:
  static constexpr uint32_t kRoot = 0;
  static constexpr uint32_t kMsize = 128 * 1024;

  void SetUp() override {
    umask(022);
    std::string name = ::testing::TempDir() + "p9-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    top_ = name;
    outside_ = top_ / "outside";
    host_ = top_ / "export";
    std::filesystem::create_directory(host_);
    std::filesystem::create_directory(outside_);
    WriteFile(outside_ / "secret", "secret");
    Start({});
  }
  void TearDown() override {
    server_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(top_, ignored);
  }

  // Serves host_ with these settings, and attaches kRoot as `uid`.
  void Start(Export config, uint32_t uid = 0) {
    config.root.reset(open(host_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    auto server = Server::Create(std::move(config));
    ASSERT_TRUE(server.ok()) << server.error().message;
    server_ = std::move(server).value();
    Reply version = client_.Version(kMsize);
    ASSERT_EQ(version.type, kTversion + 1);
    ASSERT_EQ(client_.Attach(kRoot, uid), 0);
  }

  // One message, in parts of `request_part` and `reply_part` bytes (0: in one piece).
  std::string Exchange(const std::string& message) {
    std::string request = message;
    std::string reply(reply_bytes_, '\xee');
    const auto parts = [](std::string* bytes, size_t part) {
      std::vector<iovec> result;
      for (size_t at = 0; at < bytes->size();) {
        const size_t length = std::min(part == 0 ? bytes->size() : part, bytes->size() - at);
        result.push_back({bytes->data() + at, length});
        at += length;
      }
      return result;
    };
    const size_t size = server_->Handle(parts(&request, request_part_), parts(&reply, reply_part_));
    EXPECT_LE(size, reply.size());
    // What the reply does not use must be left alone.
    if (reply_bytes_ <= 4096) {
      EXPECT_EQ(reply.find_first_not_of('\xee', size), reply.npos);
    }
    reply.resize(std::min(size, reply.size()));
    return reply;
  }

  static void WriteFile(const std::filesystem::path& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
  }
  static std::string ReadFile(const std::filesystem::path& path) {
    std::ostringstream text;
    text << std::ifstream(path, std::ios::binary).rdbuf();
    return text.str();
  }
  static struct stat Lstat(const std::filesystem::path& path) {
    struct stat attributes = {};
    EXPECT_EQ(lstat(path.c_str(), &attributes), 0) << path;
    return attributes;
  }

  std::filesystem::path top_;
  std::filesystem::path host_;
  std::filesystem::path outside_;
  std::unique_ptr<Server> server_;
  size_t request_part_ = 0;
  size_t reply_part_ = 0;
  size_t reply_bytes_ = kMsize;
  Client client_{[this](const std::string& message) { return Exchange(message); }};
};

}  // namespace clearvm::p9::test

#endif  // CLEARVM_TEST_NATIVE_P9_FIXTURE_H_
