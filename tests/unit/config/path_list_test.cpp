// Options that list files.
#include "sft/config/path_list.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "sft/config/parse.h"
#include "support.h"
#include "support/temp_dir.h"

namespace sft::config {
namespace path_list_test {

std::string shown(const std::vector<ListedPath>& entries) {
  std::string text;
  for (const ListedPath& entry : entries) {
    text += "[" + entry.name + "|" + entry.path +
            (entry.fraction ? "|" + std::to_string(*entry.fraction) : "") + "]";
  }
  return text;
}

TEST(PathList, NamedPaths) {
  EXPECT_EQ(shown(named_paths("")), "");
  EXPECT_EQ(shown(named_paths("data/a.h5")), "[|data/a.h5]");
  EXPECT_EQ(shown(named_paths("one=a.h5")), "[one|a.h5]");
  EXPECT_EQ(shown(named_paths("one=a.h5, two-2 = b=c.h5")), "[one|a.h5][two-2|b=c.h5]");
  EXPECT_EQ(shown(named_paths("lr=3/a.h5")), "[lr|3/a.h5]");
  EXPECT_EQ(shown(named_paths("data/lr=3/a.h5")), "[|data/lr=3/a.h5]");
}

TEST(PathList, Mixtures) {
  EXPECT_EQ(shown(mixture_paths("a.jsonl")), "[|a.jsonl]");
  EXPECT_EQ(shown(mixture_paths("a.jsonl:0.7, b/*.jsonl:3")), "[|a.jsonl|0.700000][|b/*.jsonl|3.000000]");
  EXPECT_EQ(shown(mixture_paths("a.jsonl,x:y.jsonl")), "[|a.jsonl][|x:y.jsonl]");
}

TEST(PathList, AFileWithACommaInItsNameIsOneEntry) {
  const test::TempDir folder;
  const auto file = folder / "a,b=c.jsonl";
  std::ofstream(file) << "";
  EXPECT_EQ(shown(mixture_paths(file.string())), "[|" + file.string() + "]");
  EXPECT_EQ(shown(named_paths(file.string())), "[|" + file.string() + "]");
  const auto part = folder / "part:12";
  std::ofstream(part) << "";
  EXPECT_EQ(shown(mixture_paths(part.string())), "[|" + part.string() + "]");
  EXPECT_EQ(shown(mixture_paths(part.string() + ":0.5")), "[|" + part.string() + "|0.500000]");
}

TEST(PathList, WrongListsAreRefused) {
  for (const char* value : {"a=x.h5, y.h5", "a=x.h5, a=y.h5", "x.h5, y.h5", "a=", "a=x.h5,"}) {
    EXPECT_EQ(error_of_text(std::string("eval_dataset = ") + value),
              std::string("run.ini:1: eval_dataset = ") + value +
                  ": must be a path, or name=path, name=path, ..., or None");
  }
  for (const char* value : {"a:0.5, b", "a:0, b:1", "a:-1, b:2", "a:1,, b:2", ":0.5, b:1"}) {
    EXPECT_EQ(error_of_text(std::string("train_file = ") + value),
              std::string("run.ini:1: train_file = ") + value +
                  ": must be a path, or path:fraction, path:fraction, ..., or None");
  }
  EXPECT_NE(error_of_text("test_split_size = 1.5\neval_dataset = e.h5"), "");
  EXPECT_NE(error_of_text("test_split_size = 0\neval_dataset = e.h5"), "");
}

TEST(PathList, PathsBecomeAbsoluteOneByOne) {
  const Options options =
      parse_text("train_file = a.jsonl:0.7, /b/c.jsonl:0.3\neval_dataset = one=e.h5, two=../f.h5").options;
  const std::filesystem::path here = std::filesystem::current_path();
  const std::string ini = to_ini(options);
  EXPECT_NE(ini.find("train_file = " + (here / "a.jsonl").string() + ":0.7, /b/c.jsonl:0.3\n"),
            std::string::npos)
      << ini;
  EXPECT_NE(ini.find("eval_dataset = one=" + (here / "e.h5").string() +
                     ", two=" + (here.parent_path() / "f.h5").string() + "\n"),
            std::string::npos)
      << ini;
}

}  // namespace path_list_test
}  // namespace sft::config
