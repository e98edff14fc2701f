// The syntax of run.ini.
#include "config/ini.h"

#include <gtest/gtest.h>

#include "sft/config/parse.h"
#include "support.h"

namespace sft::config {
namespace ini_test {

// The value of run_name, a free text, when run.ini holds this line.
std::string run_name_of(const std::string& line) {
  return parse_text(line).options.logging.run_name;
}

TEST(IniSyntax, KeyAndValueStandAroundTheFirstEqualsSign) {
  EXPECT_EQ(run_name_of("run_name = a"), "a");
  EXPECT_EQ(run_name_of("run_name=a=b"), "a=b");
  EXPECT_EQ(run_name_of("  run_name\t=\t two words \t"), "two words");
  EXPECT_EQ(run_name_of("run-name = dash"), "dash");
  EXPECT_EQ(run_name_of("run_name = last line has no end"), "last line has no end");
}

TEST(IniSyntax, CommentsStartAtALinesStartOrAfterWhiteSpace) {
  EXPECT_EQ(run_name_of("# run_name = no\n   # nor here\nrun_name = a # b # c"), "a");
  EXPECT_EQ(run_name_of("run_name = a\t#b"), "a");
  EXPECT_EQ(run_name_of("run_name = a#b"), "a#b");
  EXPECT_EQ(run_name_of("run_name = a#b #c"), "a#b");
  EXPECT_EQ(run_name_of("run_name = # nothing"), "");
}

TEST(IniSyntax, QuotesKeepWhatIsBetweenThem) {
  EXPECT_EQ(run_name_of("run_name = ' a # b '  # c"), " a # b ");
  EXPECT_EQ(run_name_of(R"(run_name = 'a\n"b"')"), R"(a\n"b")");
  EXPECT_EQ(run_name_of(R"(run_name = "a\n\t\\ \"b\"")"), "a\n\t\\ \"b\"");
  EXPECT_EQ(run_name_of("run_name = it's"), "it's");
  EXPECT_EQ(run_name_of("run_name = ''"), "");
}

TEST(IniSyntax, NoneUnsetsUnlessQuoted) {
  EXPECT_EQ(run_name_of("run_name = None"), "");
  EXPECT_EQ(run_name_of("run_name = none # comment"), "");
  EXPECT_EQ(run_name_of("run_name = 'None'"), "None");
  EXPECT_EQ(run_name_of("run_name = None of these"), "None of these");
}

TEST(IniSyntax, BlankLinesCarriageReturnsAndByteOrderMarkAreIgnored) {
  const Options options = parse_text("\xEF\xBB\xBFmax_steps = 7\r\n\r\nseed = 3\r\n").options;
  EXPECT_EQ(options.schedule.max_steps, 7);
  EXPECT_EQ(options.data.seed, 3);
}

TEST(IniSyntax, LinesWithoutAssignmentAreNamed) {
  EXPECT_EQ(error_of_text("seed = 1\n\nmax_steps 7"),
            "run.ini:3: 'max_steps 7' is not of the form key = value");
  EXPECT_EQ(error_of_text("= 7"), "run.ini:1: '= 7' is not of the form key = value");
  EXPECT_EQ(error_of_text("[training]\nseed = 1"),
            "run.ini:1: [training]: there are no sections; write lines key = value");
}

TEST(IniSyntax, QuotesMustBeClosedAndAlone) {
  const std::string message = "run.ini:1: run_name: quotes are not closed, or something follows them";
  EXPECT_EQ(error_of_text("run_name = 'a"), message);
  EXPECT_EQ(error_of_text("run_name = \"a\\\""), message);
  EXPECT_EQ(error_of_text("run_name = 'a' b"), message);
  EXPECT_EQ(error_of_text("run_name = 'a'b'"), message);
}

TEST(IniSyntax, BinaryFilesAndLongLinesAreRefused) {
  EXPECT_EQ(error_of_text("run_name = a\x01"), "run.ini:1: control characters; is this a text file?");
  EXPECT_EQ(error_of_text(std::string("run_name = a\0b", 14)),
            "run.ini:1: control characters; is this a text file?");
  EXPECT_EQ(error_of_text("seed = 1\nrun_name = " + std::string(65537, 'x')),
            "run.ini:2: a line of more than 64 KiB");
  EXPECT_EQ(error_of_text("#" + std::string(1 << 20, '\n')),
            "run.ini: more than 1 MiB; this is no file of options");
}

TEST(IniSyntax, LimitsAreInclusive) {
  const std::string key = "run_name = ";
  const std::string longest(65536 - key.size(), 'x');
  EXPECT_EQ(run_name_of(key + longest), longest);
  const std::string line = "seed = 5\n";
  EXPECT_EQ(parse_text(line + std::string((1 << 20) - line.size(), '\n')).options.data.seed, 5);
}

TEST(IniSyntax, TextThatIsNotUtf8IsRefused) {
  EXPECT_EQ(error_of_text("run_name = \xFF"),
            "run.ini:1: run_name = \xFF"
            ": must be UTF-8 text without control characters");
  EXPECT_EQ(run_name_of("run_name = größe"), "größe");
}

TEST(IniSyntax, QuotedWhereNeededIsReadBack) {
  for (const std::string text :
       {"plain", "two words", " blank ", "a # b", "a#b", "# a", "'", "\"", "it's \"so\"", "None", "NONE",
        "back\\slash", "\\n", "line\nline\ttab", "x='", "[s]", "a=b", "ünï"}) {
    EXPECT_EQ(run_name_of("run_name = " + quoted_where_needed(text)), text) << text;
    EXPECT_EQ(run_name_of("run_name = " + quoted_where_needed(text) + " # comment"), text) << text;
  }
  EXPECT_EQ(quoted_where_needed("two words"), "two words");
  EXPECT_EQ(quoted_where_needed("/a/b#c"), "/a/b#c");
}

TEST(Settings, KeepHashesAndTakeQuotes) {
  const auto run_name = [](const std::string& setting) {
    return parse_options({}, {setting}).options.logging.run_name;
  };
  EXPECT_EQ(run_name("run_name=a # b"), "a # b");
  EXPECT_EQ(run_name("run-name='None'"), "None");
  EXPECT_EQ(run_name("run_name=None"), "");
  EXPECT_EQ(config_error_of([&] { run_name("run_name='a"); }),
            "command line: run_name: quotes are not closed, or something follows them");
  EXPECT_EQ(config_error_of([&] { run_name("run_name"); }),
            "command line: 'run_name' is not of the form key=value");
}

}  // namespace ini_test
}  // namespace sft::config
