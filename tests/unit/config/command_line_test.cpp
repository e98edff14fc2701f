// argv.
#include <gtest/gtest.h>

#include "support.h"

namespace sft::config {
namespace command_line_test {

using Words = std::vector<std::string>;

CommandLine parse(const Words& words) {
  std::vector<const char*> argv{"sft-dist"};
  for (const std::string& word : words) argv.push_back(word.c_str());
  return parse_command_line(static_cast<int>(argv.size()), argv.data());
}

std::string error_of(const Words& words) {
  return config_error_of([&] { parse(words); });
}

TEST(CommandLine, TrainsByDefault) {
  EXPECT_EQ(parse({}).command, Command::kTrain);
  const CommandLine line = parse({"--args", "a.ini", "--max_steps", "5", "--args=b.ini"});
  EXPECT_EQ(line.command, Command::kTrain);
  EXPECT_EQ(line.ini_texts_from, (Words{"a.ini", "b.ini"}));
  EXPECT_EQ(line.settings, (Words{"max_steps=5"}));
  EXPECT_TRUE(line.operands.empty());
}

TEST(CommandLine, SettingsHaveThreeForms) {
  EXPECT_EQ(parse({"--learning-rate", "2e-5", "--seed=3", "max_length=None", "--run_name=a=b", "--run_name",
                   "x y", "--output_dir="})
                .settings,
            (Words{"learning-rate=2e-5", "seed=3", "max_length=None", "run_name=a=b", "run_name=x y",
                   "output_dir="}));
}

TEST(CommandLine, NegativeNumbersAndSingleDashesAreValues) {
  EXPECT_EQ(parse({"--max_steps", "-1", "--run_name", "-h"}).settings,
            (Words{"max_steps=-1", "run_name=-h"}));
}

TEST(CommandLine, FlagsMayStandAlone) {
  EXPECT_EQ(parse({"--bf16", "--disable-tqdm", "--resume_from_checkpoint", "--use_cpu",
                   "--activation_checkpointing"})
                .settings,
            (Words{"bf16=true", "disable-tqdm=true", "resume_from_checkpoint=true", "use_cpu=true",
                   "activation_checkpointing=true"}));
  EXPECT_EQ(parse({"--bf16", "false", "--resume_from_checkpoint", "out/checkpoint-2"}).settings,
            (Words{"bf16=false", "resume_from_checkpoint=out/checkpoint-2"}));
  EXPECT_EQ(parse({"--push_to_hub"}).settings, (Words{"push_to_hub=true"}));  // parse_options says why not
}

TEST(CommandLine, OthersNeedAValue) {
  EXPECT_EQ(error_of({"--max_steps"}), "command line: --max_steps needs a value");
  EXPECT_EQ(error_of({"--evaluation-strategy", "--bf16"}),
            "command line: --evaluation-strategy needs a value");
  EXPECT_NE(error_of({"--args"}).find("args"), std::string::npos);
}

TEST(CommandLine, HasCommands) {
  EXPECT_EQ(parse({"--help"}).command, Command::kHelp);
  EXPECT_EQ(parse({"-h"}).command, Command::kHelp);
  EXPECT_EQ(parse({"--version"}).command, Command::kVersion);
  EXPECT_EQ(parse({"--args", "a.ini", "--check-config"}).command, Command::kCheckConfig);
  EXPECT_EQ(parse({"--check_config"}).command, Command::kCheckConfig);
  EXPECT_EQ(parse({"--print-config"}).command, Command::kPrintConfig);
  EXPECT_EQ(parse({"--print-config=ini"}).command, Command::kPrintConfig);
  EXPECT_EQ(parse({"--print_config=json", "--seed", "1"}).command, Command::kPrintConfigJson);
  EXPECT_EQ(parse({"--print-options-doc"}).command, Command::kPrintOptionsDoc);
  EXPECT_EQ(parse({"--print-config", "--args", "a.ini"}).ini_texts_from, (Words{"a.ini"}));
}

TEST(CommandLine, VerifyTakesPaths) {
  const CommandLine line = parse({"verify", "out/checkpoint-5", "a=b.h5"});
  EXPECT_EQ(line.command, Command::kVerify);
  EXPECT_EQ(line.operands, (Words{"out/checkpoint-5", "a=b.h5"}));
  EXPECT_EQ(error_of({"verify"}), "usage: sft-dist verify PATH ...");
}

TEST(CommandLine, GenerateTakesAModelAndIds) {
  const CommandLine line = parse({"generate", "out", "--ids", "1,2"});
  EXPECT_EQ(line.command, Command::kGenerate);
  EXPECT_EQ(line.operands, (Words{"out", "1,2", "40"}));
  EXPECT_EQ(parse({"generate", "out", "--ids", "1", "--max_new_tokens", "3"}).operands,
            (Words{"out", "1", "3"}));
  EXPECT_EQ(error_of({"generate", "out"}),
            "usage: sft-dist generate MODEL --ids 1,2,3 [--max-new-tokens 40]");
}

TEST(CommandLine, InspectStepTakesAStepAndRanks) {
  const CommandLine line = parse({"inspect-step", "--step", "12", "--args", "run.ini", "--seed", "3"});
  EXPECT_EQ(line.command, Command::kInspectStep);
  EXPECT_EQ(line.operands, (Words{"12", ""}));
  EXPECT_EQ(line.ini_texts_from, (Words{"run.ini"}));
  EXPECT_EQ(line.settings, (Words{"seed=3"}));
  EXPECT_EQ(parse({"inspect-step", "--step=1", "--ranks=4"}).operands, (Words{"1", "4"}));
  EXPECT_EQ(error_of({"inspect-step"}), "usage: sft-dist inspect-step --step N --args run.ini [--ranks W]");
  EXPECT_EQ(error_of({"--args", "run.ini", "--ranks", "4"}),
            "command line: --ranks belongs to sft-dist inspect-step");
}

TEST(CommandLine, BenchTakesStepsAndAForm) {
  const CommandLine line = parse({"bench", "--args", "a.ini", "--max_length", "9"});
  EXPECT_EQ(line.command, Command::kBench);
  EXPECT_EQ(line.operands, (Words{"5", "table"}));
  EXPECT_EQ(line.settings, (Words{"max_length=9"}));
  EXPECT_EQ(parse({"bench", "--steps", "2", "--json"}).operands, (Words{"2", "json"}));
  EXPECT_EQ(error_of({"bench", "--steps", "0"}), "--steps = 0: must be 1 or more");
  EXPECT_NE(error_of({"bench", "--steps", "two"}).find("--steps"), std::string::npos);
  EXPECT_EQ(error_of({"bench", "a.ini"}), "usage: sft-dist bench --args run.ini [--steps N] [--json]");
  EXPECT_EQ(error_of({"--steps", "2"}), "command line: --steps belongs to sft-dist bench");
  EXPECT_EQ(error_of({"verify", "a", "--json"}), "command line: --json belongs to sft-dist bench");
}

TEST(CommandLine, CommandsThatReadNoOptionsTakeNone) {
  EXPECT_EQ(error_of({"generate", "M", "--ids", "1", "--max_new_token", "5"}),
            "command line: this command takes no option --max_new_token");
  EXPECT_EQ(error_of({"export", "--merge", "A", "B", "--max_shard_size=2GB"}),
            "command line: this command takes no option --max_shard_size");
  EXPECT_EQ(error_of({"verify", "a", "--args", "run.ini"}), "command line: this command takes no --args");
}

TEST(CommandLine, FlagsOfOneCommandAreRefusedWithAnother) {
  EXPECT_EQ(error_of({"--args", "a.ini", "--merge"}), "command line: --merge belongs to sft-dist export");
  EXPECT_EQ(error_of({"verify", "a", "--ids", "1"}), "command line: --ids belongs to sft-dist generate");
  EXPECT_EQ(error_of({"--max-new-tokens", "3"}), "command line: --max-new-tokens belongs to sft-dist generate");
  for (const Words& words : {Words{"bench", "--check-config"}, Words{"doctor", "--print-config"}})
    EXPECT_EQ(error_of(words), "command line: --check-config, --print-config and the like go without a command");
  EXPECT_EQ(error_of({"--check-config", "--print-config"}),
            "command line: --print-config and --check-config: choose one");
}

TEST(CommandLine, ListsMayBeSeveralWords) {
  EXPECT_EQ(parse({"--lora_target_modules", "q_proj", "v_proj", "--report-to", "tensorboard", "--seed", "1"}).settings,
            (Words{"lora_target_modules=q_proj,v_proj", "report-to=tensorboard", "seed=1"}));
}

TEST(CommandLine, RefusesWhatItDoesNotKnow) {
  EXPECT_EQ(error_of({"run.ini"}),
            "command line: 'run.ini' is no command; options are given as --key value, files as --args FILE");
  EXPECT_EQ(error_of({"--print-config=yaml"}),
            "--print-config=yaml: use --print-config=ini or --print-config=json");
  EXPECT_NE(error_of({"-x"}).find("sft-dist --help"), std::string::npos);
  // Nothing is guessed from a beginning.
  EXPECT_EQ(parse({"--hel", "1"}).settings, (Words{"hel=1"}));
}

}  // namespace command_line_test
}  // namespace sft::config
