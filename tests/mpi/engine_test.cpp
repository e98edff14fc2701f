// The engine over several ranks: rows dealt to ranks give what one rank computes, overlapped or not.

#include "sft/engine/engine.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <map>
#include <random>

#include "sft/base/error.h"
#include "sft/base/hash.h"
#include "sft/data/loader.h"
#include "sft/engine/replica_check.h"
#include "support/delaying_communicator.h"
#include "support/mpi_test.h"
#include "support/solo_communicator.h"
#include "support/tiny_engine.h"

namespace sft::engine {
namespace {

using Rows = std::vector<data::TokenRow>;
using DistributedEngine = testing::TinyEngine<parallel::Communicator&>;

// This rank's part of a window of two micro-batches: row i is rank i mod size's; the first rows are in the
// first micro-batch.
std::vector<Rows> my_window(const Rows& rows, const parallel::Communicator& comm) {
  std::vector<Rows> window(2);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (static_cast<int>(i) % comm.size() == comm.rank()) window[i < 3 ? 0 : 1].push_back(rows[i]);
  }
  return window;
}

std::string bits(const std::vector<at::Tensor>& tensors) {
  base::Xxh3 hash;
  for (const at::Tensor& tensor : tensors) {
    hash.update(
        {static_cast<const std::byte*>(tensor.data_ptr()), static_cast<std::size_t>(tensor.nbytes())});
  }
  return hash.hex();
}

TEST(DistributedEngine, GradientIsThatOfOneRankWithAllRows) {
  parallel::Communicator& comm = testing::world();
  DistributedEngine distributed({}, testing::tiny_llama(), comm);
  testing::TinyEngine<testing::SoloCommunicator> alone;
  const auto together = distributed.gradients(my_window(distributed.rows, comm));
  const StepMetrics metrics = distributed.engine.metrics();
  const auto expected = alone.gradients({alone.rows});
  const StepMetrics expected_metrics = alone.engine.metrics();

  EXPECT_NEAR(metrics.loss, expected_metrics.loss, 1e-6 * expected_metrics.loss);
  EXPECT_NEAR(metrics.grad_norm, expected_metrics.grad_norm, 1e-5 * expected_metrics.grad_norm);
  for (std::size_t b = 0; b < together.size(); ++b) {
    const double difference = together[b].sub(expected[b]).norm().item<double>();
    EXPECT_LE(difference, 1e-5 * expected[b].norm().item<double>()) << "block " << b;
  }
}

TEST(DistributedEngine, EveryRankHasTheSameBits) {
  parallel::Communicator& comm = testing::world();
  DistributedEngine distributed({}, testing::tiny_llama(), comm);
  const std::string mine = bits(distributed.gradients(my_window(distributed.rows, comm)));
  for (const std::string& other : comm.all_gather_bytes(mine)) EXPECT_EQ(other, mine);
}

// A late network changes when sums arrive, not what they are: nobody reads a gradient before its sum is
// complete.
TEST(DistributedEngine, DelayedCollectivesGiveTheSameBits) {
  parallel::Communicator& comm = testing::world();
  DistributedEngine prompt({}, testing::tiny_llama(), comm);
  const std::string expected = bits(prompt.gradients(my_window(prompt.rows, comm)));

  testing::DelayingCommunicator late(comm, std::chrono::milliseconds(5));
  DistributedEngine delayed({}, testing::tiny_llama(), late);
  const std::string found = bits(delayed.gradients(my_window(delayed.rows, comm)));
  EXPECT_EQ(found, expected);
  EXPECT_EQ(late.num_delayed(), comm.size() > 1 ? delayed.decoder->num_blocks() : 0);
}

// Values for a model's own tensors, the same on every rank.
class WavySource : public model::TensorSource {
 public:
  explicit WavySource(const model::Decoder& decoder) {
    for (int64_t block = 0; block < decoder.num_blocks(); ++block) {
      for (const model::TensorDef& tensor : decoder.block_tensors(block)) shapes_[tensor.name] = tensor.shape;
    }
  }
  bool contains(std::string_view name) const override { return shapes_.count(std::string(name)) > 0; }
  std::vector<std::string> names() const override { return {}; }
  std::vector<int64_t> shape(std::string_view name) const override { return shapes_.at(std::string(name)); }
  void read(std::string_view, int64_t begin, int64_t end, const at::Tensor& out) const override {
    for (int64_t i = begin; i < end; ++i) out.data_ptr<float>()[i - begin] = std::sin(static_cast<float>(i));
  }
  int64_t bytes_read() const override { return 0; }

 private:
  std::map<std::string, std::vector<int64_t>> shapes_;
};

struct Flip {
  int rank;
  const Replica& victim;
  std::size_t byte;
  unsigned bit = 0;
};

// What check_replicas says after one bit of a replica has changed on one rank.
std::string said_of_flipped_bit(const std::vector<Replica>& replicas, const Flip& flipped,
                                parallel::Communicator& comm) {
  const auto flip = [&] {
    auto* bytes = static_cast<unsigned char*>(flipped.victim.values.mutable_data_ptr());
    if (comm.rank() == flipped.rank) bytes[flipped.byte] ^= 1U << flipped.bit;
  };
  flip();
  std::string message;
  try {
    check_replicas(replicas, comm);
  } catch (const base::Error& error) {
    message = error.what();
    EXPECT_EQ(error.code(), base::ExitCode::kDiverged);
  }
  flip();
  return message;
}

class ReplicaCheck : public ::testing::TestWithParam<EngineOptions> {};

// Every tensor there is, trained, frozen and in 4 bits.
TEST_P(ReplicaCheck, OneFlippedBitIsFoundAndNamed) {
  parallel::Communicator& comm = testing::world();
  const model::AdapterSpec adapter = testing::tiny_adapter({"q_proj", "down_proj"});
  DistributedEngine distributed(GetParam(), testing::tiny_llama(), &adapter, comm);
  distributed.engine.load_parameters(WavySource(*distributed.decoder));
  distributed.engine.initialize_adapters(model::AdapterInit::kRandom, 11);
  const std::vector<Replica> replicas = distributed.engine.replicas();
  EXPECT_NO_THROW(check_replicas(replicas, comm));
  const std::string ranks = comm.size() == 2 ? "rank 0 or 1 differs" : "rank 1 differs";
  for (const Replica& victim : replicas) {
    const std::string message = said_of_flipped_bit(replicas, {1, victim, victim.values.nbytes() - 1}, comm);
    if (comm.size() == 1) {
      EXPECT_EQ(message, "");
    } else {
      EXPECT_NE(message.find(victim.name + " of " + ranks), std::string::npos)
          << victim.name << ": " << message;
    }
  }
  if (GetParam().frozen_linears == FrozenLinears::kPlain) {
    int64_t numel = 0;
    for (const Replica& replica : replicas) numel += replica.values.numel();
    EXPECT_EQ(numel, distributed.engine.num_parameters());
  }
}

// A hundred bits anywhere, on any rank.
TEST_P(ReplicaCheck, AnyBitIsFoundAndNamed) {
  parallel::Communicator& comm = testing::world();
  if (comm.size() == 1) return;
  const model::AdapterSpec adapter = testing::tiny_adapter({"q_proj", "down_proj"});
  DistributedEngine distributed(GetParam(), testing::tiny_llama(), &adapter, comm);
  distributed.engine.load_parameters(WavySource(*distributed.decoder));
  distributed.engine.initialize_adapters(model::AdapterInit::kRandom, 11);
  const std::vector<Replica> replicas = distributed.engine.replicas();
  std::mt19937 random(28);  // the same on every rank
  for (int i = 0; i < 100; ++i) {
    const Replica& victim = replicas[random() % replicas.size()];
    const Flip flip{static_cast<int>(random() % static_cast<unsigned>(comm.size())), victim,
                    random() % victim.values.nbytes(), static_cast<unsigned>(random() % 8)};
    const std::string message = said_of_flipped_bit(replicas, flip, comm);
    const std::string expected = comm.size() == 2
                                     ? victim.name + " of rank 0 or 1 differs"
                                     : fmt::format("{} of rank {} differs", victim.name, flip.rank);
    EXPECT_NE(message.find(expected), std::string::npos) << expected << ": " << message;
  }
}

INSTANTIATE_TEST_SUITE_P(All, ReplicaCheck,
                         ::testing::Values(EngineOptions{}, EngineOptions{.frozen_dtype = c10::kBFloat16},
                                           EngineOptions{.frozen_linears = FrozenLinears::kNf4},
                                           EngineOptions{.frozen_linears = FrozenLinears::kNf4Nested}));

// Adapters with dropout: the same masks, the same sums, and the same first values on every rank.
TEST(DistributedEngine, AdaptersTrainAsOnOneRank) {
  parallel::Communicator& comm = testing::world();
  model::AdapterSpec adapter = testing::tiny_adapter({"q_proj", "down_proj"});
  adapter.lora_dropout = 0.2;
  adapter.modules_to_save = {"model.norm"};
  DistributedEngine distributed({}, testing::tiny_llama(), &adapter, comm);
  testing::TinyEngine<testing::SoloCommunicator> alone({}, testing::tiny_llama(), &adapter);
  for (engine::Engine* engine : {&distributed.engine, &alone.engine})
    engine->initialize_adapters(model::AdapterInit::kRandom, 11);
  const auto together = distributed.gradients(my_window(distributed.rows, comm));
  const auto expected = alone.gradients({alone.rows});
  for (std::size_t b = 0; b < together.size(); ++b) {
    const double difference = together[b].sub(expected[b]).norm().item<double>();
    EXPECT_LE(difference, 1e-5 * expected[b].norm().item<double>()) << "block " << b;
  }
  const std::string mine = bits(together);
  for (const std::string& other : comm.all_gather_bytes(mine)) EXPECT_EQ(other, mine);
}

// The load-balancing loss is one for each micro-batch of each rank: its gradient and value are those of one
// rank that runs the same micro-batches one after the other.
TEST(DistributedEngine, MixturesBalanceEveryMicroBatch) {
  parallel::Communicator& comm = testing::world();
  DistributedEngine distributed({}, testing::tiny_mixture(), comm);
  testing::TinyEngine<testing::SoloCommunicator> alone({}, testing::tiny_mixture());
  distributed.aux_scale = alone.aux_scale = 0.5;
  const auto together = distributed.gradients({{distributed.rows[static_cast<std::size_t>(comm.rank())]}});
  std::vector<Rows> micro_batches;
  for (int rank = 0; rank < comm.size(); ++rank)
    micro_batches.push_back({alone.rows[static_cast<std::size_t>(rank)]});
  const auto expected = alone.gradients(micro_batches);
  const StepMetrics metrics = distributed.engine.metrics(/*count_tokens=*/comm.rank() == 0);
  const StepMetrics expected_metrics = alone.engine.metrics();
  for (std::size_t b = 0; b < together.size(); ++b) {
    const double difference = together[b].sub(expected[b]).norm().item<double>();
    EXPECT_LE(difference, 1e-5 * expected[b].norm().item<double>()) << "block " << b;
  }
  EXPECT_EQ(metrics.aux_loss.count, comm.size());
  EXPECT_EQ(metrics.counted_aux_loss.count, 1);
  EXPECT_NEAR(metrics.aux_loss.sum, expected_metrics.aux_loss.sum, 1e-9);
}

// Rows held in memory.
class Rowset final : public data::TokenDataset {
 public:
  explicit Rowset(Rows rows) : rows_(std::move(rows)) {}
  const data::DatasetInfo& info() const override { return info_; }
  int64_t size() const override { return static_cast<int64_t>(rows_.size()); }
  int64_t length(int64_t index) const override { return static_cast<int64_t>(read(index).input_ids.size()); }
  int64_t longest_sequence() const override { return 20; }
  std::vector<int64_t> row_numbers(int64_t index) const override { return {index}; }
  data::TokenRow read(int64_t index) const override { return rows_[static_cast<std::size_t>(index)]; }
  int64_t num_rows_truncated() const override { return 0; }
  int64_t num_tokens_lost() const override { return 0; }
  int64_t num_rows_dropped() const override { return 0; }

 private:
  Rows rows_;
  data::DatasetInfo info_;
};

// Micro-batches cut by tokens, of which ranks would have different numbers: the same gradient, dropout and
// noise included, the same number of collectives, and the same bits on every rank.
TEST(DistributedEngine, MicroBatchesCutByTokensGiveTheSameGradient) {
  parallel::Communicator& comm = testing::world();
  model::DecoderSpec spec = testing::tiny_llama();
  spec.attention_dropout = spec.residual_dropout = spec.embedding_dropout = 0.1;
  DistributedEngine distributed({.neftune_alpha = 5}, spec, comm);
  const Rowset dataset(distributed.rows);  // of 5, 8, 11, 14, 17 and 20 tokens
  const auto window = [&](int64_t micro_batch_tokens) {
    const int64_t ranks = comm.size();
    const auto loader =
        data::DataLoader::create(dataset, {.layout = {.num_rows = 6,
                                                      .micro_batch_size = 1,
                                                      .world_size = ranks,
                                                      .gradient_accumulation_steps = 6 / ranks},
                                           .micro_batch_tokens = micro_batch_tokens,
                                           .rank = comm.rank(),
                                           .strategy = data::SamplingStrategy::kSequential});
    return loader->next({});
  };
  const auto train = [&](const data::Window& part) {
    distributed.engine.zero_grad();
    for (const data::MicroBatch& batch : part.micro_batches)
      distributed.engine.forward_backward(batch, 1.0 / 100, &batch == &part.micro_batches.back());
    distributed.engine.finish_reduction();
    std::vector<at::Tensor> gradients;
    for (const ParameterBlock& block : distributed.engine.blocks())
      gradients.push_back(block.gradients().clone());
    return std::pair(gradients, distributed.engine.metrics());
  };
  const auto [expected, expected_metrics] = train(window(0));
  bool some_rank_had_an_empty_one = false;
  for (const int64_t tokens : {1, 25, 36, 1000}) {  // of two ranks one has 39 tokens, the other 36
    const data::Window part = window(tokens);
    const auto [found, metrics] = train(part);
    EXPECT_NEAR(metrics.loss, expected_metrics.loss, 1e-6 * expected_metrics.loss);
    for (std::size_t b = 0; b < found.size(); ++b) {
      const double difference = found[b].sub(expected[b]).norm().item<double>();
      EXPECT_LE(difference, 1e-5 * expected[b].norm().item<double>()) << tokens << " tokens, block " << b;
    }
    const std::string mine = bits(found);
    for (const std::string& other : comm.all_gather_bytes(mine)) EXPECT_EQ(other, mine);
    some_rank_had_an_empty_one |= comm.sum(int64_t{part.micro_batches.front().empty()}) > 0;
  }
  EXPECT_EQ(some_rank_had_an_empty_one, comm.size() == 2);
}

TEST(DistributedEngine, ARankWithoutRowsJoins) {
  parallel::Communicator& comm = testing::world();
  DistributedEngine distributed({}, testing::tiny_llama(), comm);
  testing::TinyEngine<testing::SoloCommunicator> alone;
  const bool mine = comm.rank() == comm.size() - 1;
  const auto together = distributed.gradients({mine ? Rows{distributed.rows[0]} : Rows{}});
  const auto expected = alone.gradients({{alone.rows[0]}});
  for (std::size_t b = 0; b < together.size(); ++b)
    EXPECT_TRUE(together[b].equal(expected[b])) << "block " << b;
}

}  // namespace
}  // namespace sft::engine
