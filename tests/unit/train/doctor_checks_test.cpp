// The verdicts of `sft-dist doctor` on facts made up here.
#include "train/doctor_checks.h"

#include <gtest/gtest.h>

#include <vector>

#include "sft/base/hash.h"
#include "support/temp_dir.h"

namespace sft::train {
namespace doctor_checks_test {

using base::ExitCode;

// Two ranks on each of two hosts, nothing wrong.
AllFacts good_facts() {
  AllFacts ranks(4);
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    RankFacts& facts = ranks[r];
    facts.rank = static_cast<int>(r);
    facts.host = r < 2 ? "nodea" : "nodeb";
    facts.ranks_on_host = 2;
    facts.program = {{"sft-dist", "10 bytes, xxh3 ab"}, {"libmpi.so.40", "7 bytes"}};
    facts.inputs = {{"/data/train.h5", "9 bytes, xxh3 cd"}};
    facts.device = "cpu";
    facts.threads = 2;
    facts.cores = r % 2 == 0 ? std::vector<int>{0, 1} : std::vector<int>{2, 3};
    facts.memory = {facts.host, 400'000'000, {{"the machine", 1'000'000'000}}};
    facts.limits = {.open_files = 1024, .shared_memory_bytes = int64_t{1} << 30};
    for (std::size_t other = 0; other < ranks.size(); ++other) {
      const bool same_host = (r < 2) == (other < 2);
      facts.links.push_back(r == other ? parallel::Link{}
                                       : parallel::Link{same_host ? 1e-6 : 20e-6, same_host ? 8e9 : 1e9, 0});
    }
  }
  return ranks;
}

std::string text_of(const Finding& finding) {
  std::string text;
  for (const std::string& line : finding.texts) text += line + "\n";
  return text;
}

void expect_to_do(const Finding& finding, ExitCode code, const std::vector<std::string>& parts) {
  EXPECT_EQ(finding.code, code);
  for (const std::string& part : parts)
    EXPECT_NE(text_of(finding).find(part), std::string::npos) << part << " in " << text_of(finding);
}

using Check = Finding (*)(const AllFacts&);
constexpr Check kChecks[] = {check_hosts,  check_program, check_inputs, check_device, check_cores,
                             check_memory, check_limits,  check_links,  check_clocks};

TEST(Doctor, FindsNothingWhereNothingIsWrong) {
  for (const Check check : kChecks) {
    const Finding finding = check(good_facts());
    EXPECT_TRUE(finding.ok()) << text_of(finding);
    EXPECT_FALSE(finding.texts.empty());
  }
  EXPECT_EQ(text_of(check_hosts(good_facts())), "4 ranks on nodea (2), nodeb (2)\n");
}

TEST(Doctor, OneRankHasNobodyToDifferFrom) {
  AllFacts ranks = good_facts();
  ranks.resize(1);
  ranks[0].links.resize(1);
  for (const Check check : kChecks) EXPECT_TRUE(check(ranks).ok()) << text_of(check(ranks));
}

TEST(Doctor, NamesTheHostThatHasAnotherProgram) {
  AllFacts ranks = good_facts();
  for (const std::size_t r : {std::size_t{2}, std::size_t{3}}) ranks[r].program["libmpi.so.40"] = "8 bytes";
  const Finding finding = check_program(ranks);
  expect_to_do(finding, ExitCode::kDiverged,
               {"nodeb: libmpi.so.40 differs from that of nodea (8 bytes; there 7 bytes)"});
  EXPECT_EQ(finding.texts.size(), 1U) << "once for both ranks of the host";
}

TEST(Doctor, NamesTheHostThatHasOtherData) {
  AllFacts ranks = good_facts();
  ranks[3].inputs["/data/train.h5"] = "9 bytes, xxh3 ef";
  expect_to_do(check_inputs(ranks), ExitCode::kDiverged,
               {"nodeb: /data/train.h5 differs", "xxh3 ef", "xxh3 cd"});
  ranks[3].inputs.clear();
  expect_to_do(check_inputs(ranks), ExitCode::kDiverged, {"nodeb: /data/train.h5 differs", "(absent;"});
  ranks[3].open_inputs = {ExitCode::kInvalidData, "train_dataset = x does not exist"};
  expect_to_do(check_inputs(ranks), ExitCode::kInvalidData, {"nodeb: train_dataset = x does not exist"});
}

TEST(Doctor, NamesTheHostWithoutTheDevice) {
  AllFacts ranks = good_facts();
  ranks[2].device = "cuda";
  expect_to_do(check_device(ranks), ExitCode::kConfig, {"nodeb: has device cuda, nodea has cpu"});
  ranks[2].select_device = {ExitCode::kConfig, "shows no GPU"};
  ranks[2].device = "";
  expect_to_do(check_device(ranks), ExitCode::kConfig, {"nodeb: shows no GPU"});
}

TEST(Doctor, CountsThreadsOnCoresThatRanksShare) {
  AllFacts ranks = good_facts();
  // As many threads as cores: shared, but enough.
  ranks[0].cores = ranks[1].cores = {0, 1, 2, 3};
  EXPECT_TRUE(check_cores(ranks).ok());
  expect_to_do(check_cores(ranks), ExitCode::kDone,
               {"nodea: ranks 0, 1: 4 threads on cores 0-3", "nodeb: rank 2: 2 threads on cores 0-1"});
  ranks[2].cores = ranks[3].cores = {1, 5};
  expect_to_do(check_cores(ranks), ExitCode::kConfig,
               {"nodeb: ranks 2, 3: 4 threads on cores 1,5: start fewer"});
  EXPECT_EQ(check_cores(ranks).texts.size(), 1U);
}

TEST(Doctor, RanksMayBeJoinedOverAThird) {
  AllFacts ranks = good_facts();
  for (RankFacts& facts : ranks) facts.host = "nodea";
  ranks[0].cores = {0, 1};
  ranks[1].cores = {2, 3};
  ranks[2].cores = {1, 2};
  ranks[3].cores = {4, 5};
  expect_to_do(check_cores(ranks), ExitCode::kConfig, {"nodea: ranks 0, 1, 2: 6 threads on cores 0-3"});
}

TEST(Doctor, AddsUpTheMemoryOfRanksOnOneHost) {
  AllFacts ranks = good_facts();
  EXPECT_EQ(text_of(check_memory(ranks)),
            "nodea, nodeb: 800 MB before activations, of 1000 MB (the machine)\n");
  ranks[3].memory.limits.push_back({"control group /job", 399'000'000});
  expect_to_do(
      check_memory(ranks), ExitCode::kOutOfMemory,
      {"control group /job on nodeb gives 1 rank 399 MB, and 400 MB are needed, before activations"});
  ranks = good_facts();
  ranks[2].memory = {};
  ranks[2].reserve_memory = {ExitCode::kOutOfMemory, "400 MB of memory cannot be had"};
  expect_to_do(check_memory(ranks), ExitCode::kOutOfMemory, {"nodeb: 400 MB of memory cannot be had"});
}

TEST(Doctor, SaysThatMemoryIsNotKnown) {
  AllFacts ranks = good_facts();
  for (RankFacts& facts : ranks) facts.memory = {};
  EXPECT_TRUE(check_memory(ranks).ok());
  EXPECT_NE(text_of(check_memory(ranks)).find("not looked at"), std::string::npos);
}

TEST(Doctor, NamesLimitsThatAreTooLow) {
  AllFacts ranks = good_facts();
  ranks[1].limits.open_files = 100;
  expect_to_do(check_limits(ranks), ExitCode::kConfig,
               {"nodea: 100 open files are allowed, 272 may be needed"});
  ranks = good_facts();
  ranks[2].limits.has_infiniband = true;
  expect_to_do(check_limits(ranks), ExitCode::kConfig, {"nodeb: has InfiniBand"});
  ranks[2].limits.may_lock_all_memory = true;
  EXPECT_TRUE(check_limits(ranks).ok());
  ranks[2].limits.shared_memory_bytes = 64'000'000;
  expect_to_do(check_limits(ranks), ExitCode::kConfig,
               {"nodeb: 64 MB are free in /dev/shm, 2 ranks may need 67"});
  ranks[2].ranks_on_host = 1;
  EXPECT_TRUE(check_limits(ranks).ok());
}

TEST(Doctor, NamesSlowPairs) {
  AllFacts ranks = good_facts();
  ranks[1].links[3].bytes_per_second = 0.2e9;  // a fifth of the others'
  expect_to_do(check_links(ranks), ExitCode::kConfig,
               {"rank 1 (nodea) - rank 3 (nodeb): 20 us, 200 MB/s (median 20 us, 1.0 GB/s)"});
  EXPECT_EQ(check_links(ranks).texts.size(), 1U);
  ranks = good_facts();
  ranks[0].links[1].latency_seconds = 2e-3;
  expect_to_do(check_links(ranks), ExitCode::kConfig, {"rank 0 (nodea) - rank 1 (nodea): 2.0 ms"});
  ranks = good_facts();
  for (RankFacts& facts : ranks) {
    for (parallel::Link& link : facts.links)
      link.bytes_per_second = 90e6;  // all alike, below gigabit Ethernet
  }
  EXPECT_EQ(check_links(ranks).texts.size(), 6U);
}

TEST(Doctor, NamesTheHostWhoseClockIsWrong) {
  AllFacts ranks = good_facts();
  for (const std::size_t r : {std::size_t{2}, std::size_t{3}})
    ranks[r].links[0].clock_seconds = 120;  // that of rank 0 is ahead
  const Finding finding = check_clocks(ranks);
  expect_to_do(finding, ExitCode::kConfig, {"nodeb: its clock is 120 s behind that of nodea"});
  EXPECT_EQ(finding.texts.size(), 1U);
}

TEST(Doctor, CountsTheSpaceOfWhatIsToCome) {
  const StorageNeed need{
      .checkpoint_bytes = 100'000'000, .num_checkpoints = 4, .final_model_bytes = 50'000'000};
  EXPECT_TRUE(check_space(need, 495'000'000, 0).ok());  // 1.1 * (4 * 100 + 50)
  expect_to_do(check_space(need, 494'999'999, 0), ExitCode::kStorage,
               {"494 MB free; 4 checkpoints of 101 MB"});
  EXPECT_TRUE(check_space(need, 275'000'000, 2).ok());
  EXPECT_FALSE(check_space(need, 164'999'999, 9).ok()) << "one more is written before an old one goes";
  EXPECT_TRUE(check_space({}, 0, 0).ok());
}

TEST(Doctor, EndsWithTheCodeOfTheFirstThingToDo) {
  const Finding ok{"a", {"fine"}}, storage{"b", {"x", "y"}, ExitCode::kStorage},
      config{"c", {"z"}, ExitCode::kConfig};
  EXPECT_EQ(verdict({ok, ok}), ExitCode::kDone);
  EXPECT_EQ(verdict({ok, storage, config}), ExitCode::kStorage);
  EXPECT_EQ(table({ok, storage}),
            "a               ok     fine\n"
            "b               TO DO  x\n"
            "                       y\n");
}

TEST(Doctor, FactsSurviveTheJourney) {
  for (const RankFacts& facts : good_facts())
    EXPECT_EQ(to_json(facts_from_json(to_json(facts))), to_json(facts));
  RankFacts odd = good_facts()[0];
  odd.inputs["/data/\xff.h5"] = "absent";  // no UTF-8
  EXPECT_NO_THROW(facts_from_json(to_json(odd)));
}

TEST(Doctor, FingerprintIsTheHashOfTheFileOrTheReasonWhyNot) {
  const test::TempDir folder;
  test::write_file(folder / "small", "some bytes");
  EXPECT_EQ(fingerprint(folder / "small"), "10 bytes, xxh3 " + base::xxh3_hex("some bytes"));
  test::write_file(folder / "empty", "");
  EXPECT_EQ(fingerprint(folder / "empty"), "0 bytes, xxh3 " + base::xxh3_hex(""));
  EXPECT_NE(fingerprint(folder / "absent").find("absent"), std::string::npos);
}

TEST(Doctor, FingerprintOfALargeFileSeesItsLengthAndItsEnds) {
  const test::TempDir folder;
  std::string bytes(std::size_t{20} << 20, 'a');
  const auto of = [&] {
    test::write_file(folder / "large", bytes);
    return fingerprint(folder / "large");
  };
  const std::string before = of();
  for (const std::size_t position : {std::size_t{0}, bytes.size() - 1}) {
    bytes[position] = 'b';
    EXPECT_NE(of(), before) << position;
    bytes[position] = 'a';
  }
  bytes += 'a';
  EXPECT_NE(of(), before);
}

}  // namespace doctor_checks_test
}  // namespace sft::train
