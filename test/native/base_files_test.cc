#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "native/base/files.h"

namespace clearvm {
namespace {

class Files : public testing::Test {
 protected:
  Files() {
    char name[] = "/tmp/clearvm-files-XXXXXX";
    directory_ = ::mkdtemp(name);
    std::filesystem::create_directory(directory_ / "layer");
    ::chmod((directory_ / "layer").c_str(), 01751);
    places_ = {directory_ / "run", directory_ / "data", "1:2:3", directory_ / "layer"};
  }
  ~Files() override { std::filesystem::remove_all(directory_); }

  mode_t ModeOf(const char* name) const {
    struct stat status;
    return ::lstat((directory_ / name).c_str(), &status) == 0 ? status.st_mode & 07777 : 0;
  }

  std::filesystem::path directory_;
  ContainerPlaces places_;
};

TEST_F(Files, MakesAContainersPlacesWhateverTheUmaskIs) {
  const mode_t before = ::umask(077);
  const auto made = MakeContainerPlaces(places_);
  ::umask(before);
  ASSERT_TRUE(made.ok()) << made.error().message;
  EXPECT_EQ(ModeOf("run"), 0700u);
  EXPECT_EQ(ModeOf("data"), 0700u);
  EXPECT_EQ(ModeOf("data/work"), 0700u);
  EXPECT_EQ(ModeOf("data/upper"), 01751u) << "as the topmost layer";
  EXPECT_EQ(std::filesystem::read_symlink(directory_ / "run/owner"), "1:2:3");
  EXPECT_EQ(std::filesystem::read_symlink(directory_ / "data/owner"), "1:2:3");
}

TEST_F(Files, NamesThePlaceThatCannotBeMade) {
  places_.top_layer = directory_ / "none";
  const auto made = MakeContainerPlaces(places_);
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.error().code, "ERR_STATE");
  EXPECT_EQ(made.error().sys_errno, ENOENT);
  EXPECT_NE(made.error().message.find(places_.top_layer), std::string::npos);

  const auto again = MakeContainerPlaces(places_);
  ASSERT_FALSE(again.ok());
  EXPECT_EQ(again.error().sys_errno, EEXIST);
}

TEST_F(Files, WritesFilesForTheirOwnerAlone) {
  const std::string path = directory_ / "a.json";
  ASSERT_TRUE(WriteFile(path, "a longer text").ok());
  ASSERT_TRUE(WriteFile(path, "short").ok());
  std::ifstream file(path);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), "short");
  EXPECT_EQ(ModeOf("a.json"), 0600u);
  const auto failed = WriteFile(directory_ / "none/a.json", "x");
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().sys_errno, ENOENT);
}

}  // namespace
}  // namespace clearvm
