#include "metrics/console.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>

namespace sft::metrics {
namespace console_test {

// What use(file) writes.
std::string written(const std::function<void(std::FILE*)>& use) {
  char* data = nullptr;
  std::size_t size = 0;
  std::FILE* file = ::open_memstream(&data, &size);
  use(file);
  std::fclose(file);
  std::string text(data, size);
  std::free(data);  // NOLINT: open_memstream's
  return text;
}

// The lines left on a terminal that knows "\r" and "erase line".
std::vector<std::string> screen(const std::string& text) {
  std::vector<std::string> lines = {""};
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text.compare(i, 5, "\r\x1b[2K") == 0) {
      lines.back().clear();
      i += 4;
    } else if (text[i] == '\n') {
      lines.emplace_back();
    } else {
      EXPECT_GE(static_cast<unsigned char>(text[i]), 0x20U) << "a control character is left";
      lines.back() += text[i];
    }
  }
  return lines;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Console, TableIsAlignedAndFits80Columns) {
  std::string long_value;
  for (int i = 0; i < 40; ++i) long_value += "word" + std::to_string(i) + " ";
  const auto lines = screen(written([&](std::FILE* out) {
    Console(out, false, 10)
        .table("sft-dist", {{"model", "a model"},
                            {"global batch", "2 x 4 x 8 = 64"},
                            {"notes", long_value},
                            {"name", "bell\a"}});
  }));
  EXPECT_EQ(lines[0], "sft-dist");
  EXPECT_EQ(lines[1], "  model         a model");
  EXPECT_EQ(lines[2], "  global batch  2 x 4 x 8 = 64");
  EXPECT_EQ(lines[4].substr(0, 16), std::string(16, ' '));
  for (const std::string& line : lines) EXPECT_LE(line.size(), 80U);
  std::string all;
  for (const std::string& line : lines) all += line + " ";
  EXPECT_TRUE(contains(all, "word39"));
  EXPECT_TRUE(contains(all, "bell\\x07"));
}

TEST(Console, EntryHasHuggingFaceKeys) {
  const auto lines = screen(written([](std::FILE* out) {
    Console(out, false, 400)
        .entry("train", 20, 0.25,
               {{"loss", 3.91284},
                {"grad_norm", std::nan("")},
                {"learning_rate", 2e-5},
                {"num_tokens", 1234567}});
  }));
  EXPECT_EQ(
      lines[0],
      "train    20/400  epoch 0.25  loss 3.913  grad_norm nan  learning_rate 2e-05  num_tokens 1234567");
}

TEST(Console, BarIsErasedBeforeLinesAndDrawnAfter) {
  const auto lines = screen(written([](std::FILE* out) {
    Console console(out, true, 100, 80);
    console.progress({10, 3.5, 1e-4, 1000}, 0.0);
    console.entry("train", 10, 0.1, {{"loss", 3.5}});
    console.progress({20, 3.25, 1e-4, 1000}, 20.0);
    console.entry("train", 20, 0.2, {{"loss", 3.25}});
  }));
  ASSERT_EQ(lines.size(), 4U);  // two entries, the last bar, and the line after it
  EXPECT_TRUE(contains(lines[0], "loss 3.5")) << lines[0];
  EXPECT_FALSE(contains(lines[0], "%"));
  EXPECT_TRUE(contains(lines[1], "loss 3.25"));
  EXPECT_TRUE(lines[2].starts_with(" 20% [")) << lines[2];
  EXPECT_TRUE(contains(lines[2], "20/100 loss 3.25 lr 0.0001 1000 tok/s 00:20<02:40")) << lines[2];
  EXPECT_EQ(lines[3], "");
}

TEST(Console, BarFitsEveryWidth) {
  for (const int columns : {1, 10, 40, 79, 80, 200}) {
    const auto lines = screen(written([&](std::FILE* out) {
      Console(out, true, 1'000'000, columns).progress({999'999, 1.2345678, 1.2345e-5, 123456}, 1.0);
    }));
    EXPECT_LT(lines[0].size(), static_cast<std::size_t>(std::max(columns, 2))) << columns << ": " << lines[0];
  }
}

TEST(Console, BarIsDrawnAtMostTenTimesASecondAndAtTheEnd) {
  const std::string text = written([](std::FILE* out) {
    Console console(out, true, 1000, 80);
    for (int step = 1; step <= 1000; ++step) console.progress({step, 1, 1e-4, 10}, step * 0.001);
  });
  std::size_t draws = 0;
  for (std::size_t at = text.find('\r'); at != std::string::npos; at = text.find('\r', at + 1)) ++draws;
  EXPECT_GE(draws, 8U);
  EXPECT_LE(draws, 12U);
  EXPECT_TRUE(contains(screen(text)[0], "100% [")) << screen(text)[0];
  EXPECT_TRUE(contains(screen(text)[0], "<00:00"));
}

TEST(Console, WithoutBarProgressWritesNothing) {
  EXPECT_EQ(written([](std::FILE* out) { Console(out, false, 10).progress({1, 1, 1, 1}, 0.0); }), "");
}

TEST(ClockText, IsMinutesOrHours) {
  EXPECT_EQ(clock_text(0), "00:00");
  EXPECT_EQ(clock_text(59.9), "00:59");
  EXPECT_EQ(clock_text(3723), "1:02:03");
  EXPECT_EQ(clock_text(360000), "100:00:00");
}

}  // namespace console_test
}  // namespace sft::metrics
