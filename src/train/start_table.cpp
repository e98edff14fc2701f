#include "start_table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "adapter_setup.h"

namespace sft::train {
namespace {

std::string dataset_text(const std::string& path, const data::TokenDataset& dataset,
                         const config::DataOptions& options, bool packed) {
  const std::optional<int64_t>& max_length = options.max_length;
  const int64_t num_tokens = dataset.info().num_tokens - dataset.num_tokens_lost();
  std::string text = fmt::format("{}: {} rows, {} tokens", path, dataset.size(), num_tokens);
  if (packed) {
    text += fmt::format("; {} documents packed ({}), {:.1f} % of max_length filled", dataset.info().num_rows,
                        options.packing_strategy,
                        100.0 * static_cast<double>(num_tokens) /
                            (static_cast<double>(dataset.size()) * static_cast<double>(*max_length)));
  }
  if (max_length && dataset.num_rows_truncated() > 0) {
    text += fmt::format("; max_length = {} cuts {} rows ({} tokens)", *max_length,
                        dataset.num_rows_truncated(), dataset.num_tokens_lost());
  }
  if (dataset.num_rows_dropped() > 0)
    text += fmt::format("; {} rows without a target left out", dataset.num_rows_dropped());
  return text;
}

std::string parameters_text(const config::Options& options, const engine::Engine& engine) {
  const auto total = static_cast<double>(engine.num_parameters());
  const auto trainable = static_cast<double>(engine.num_trainable_parameters());
  const char* const precision = options.precision.bf16 ? "fp32 weights, bf16 products" : "fp32";
  if (engine.frozen_bytes() == 0)
    return fmt::format("{} ({:.1f} M), {}", engine.num_parameters(), total / 1e6, precision);
  return fmt::format(
      "{} trainable of {} ({:.2f} %), {}, frozen weights in {}", engine.num_trainable_parameters(),
      engine.num_parameters(), 100 * trainable / total, precision,
      options.adapter.load_in_4bit ? "4 bits (NF4), embeddings and norms in " + options.adapter.base_dtype
                                   : options.adapter.base_dtype);
}

// Which linears have one; and which names of lora_target_modules fit none, for PEFT's lists are often for several model types.
std::string adapters_text(const config::AdapterOptions& options, const model::Decoder& decoder) {
  const std::vector<std::string> adapted = decoder.adapted_modules();
  std::vector<std::string> unknown;
  if (options.adapter_name_or_path.empty() && options.lora_target_modules != "all-linear") {
    for (const std::string& name : names_in(options.lora_target_modules)) {
      if (std::ranges::find(adapted, name.substr(name.rfind('.') + 1)) == adapted.end()) unknown.push_back(name);
    }
  }
  std::string text = fmt::format("{} on {}", options.use_dora ? "DoRA" : "LoRA", fmt::join(adapted, ", "));
  if (!unknown.empty()) text += fmt::format("; this model has no {}", fmt::join(unknown, ", no "));
  return text;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> start_table(
    const config::Options& options, const RunPlan& plan, const data::TokenDataset& train,
    const std::vector<EvaluationSet>& eval, const engine::Engine& engine, const MemoryNeed& memory,
    const parallel::Communicator& comm, const parallel::Topology& topology, const std::string& device,
    int threads) {
  const model::DecoderSpec& spec = engine.decoder().spec();
  const data::BatchLayout& layout = plan.layout;
  std::vector<std::pair<std::string, std::string>> rows;
  rows.emplace_back("model",
                    fmt::format("{} ({}, {} layers, hidden size {})", options.model.model_name_or_path,
                                spec.model_type, spec.num_hidden_layers, spec.hidden_size));
  rows.emplace_back("parameters", parameters_text(options, engine));
  if (options.adapter.use_peft) rows.emplace_back("adapters", adapters_text(options.adapter, engine.decoder()));
  rows.emplace_back("train_dataset",
                    dataset_text(options.data.train_dataset, train, options.data, options.data.packing));
  for (const EvaluationSet& set : eval) {
    rows.emplace_back(set.name.empty() ? "eval_dataset" : "eval_dataset " + set.name,
                      dataset_text(set.path, *set.dataset, options.data,
                                   options.eval.eval_packing.value_or(options.data.packing)));
  }
  const std::string cut = plan.micro_batch_tokens > 0
                              ? fmt::format("; micro-batches of up to {} tokens", plan.micro_batch_tokens)
                              : "";
  rows.emplace_back("global batch", fmt::format("{} rows = {} per device x {} accumulation x {} ranks{}",
                                                layout.global_batch_size(), layout.micro_batch_size,
                                                layout.gradient_accumulation_steps, layout.world_size, cut));
  rows.emplace_back("steps", fmt::format("{} ({} per epoch)", plan.max_steps, plan.steps_per_epoch));
  rows.emplace_back("optimizer",
                    fmt::format("{}, learning rate {} ({})", options.optimizer.optim,
                                options.optimizer.learning_rate, options.schedule.lr_scheduler_type));
  rows.emplace_back("ranks", fmt::format("{} on {} host{}, {}, {} thread{} each, {} communicator",
                                         comm.size(), topology.num_hosts, topology.num_hosts == 1 ? "" : "s",
                                         device, threads, threads == 1 ? "" : "s", comm.name()));
  rows.emplace_back("memory per rank", to_text(memory) + ", plus activations");
  rows.emplace_back("output_dir", options.save.output_dir);
  return rows;
}

}  // namespace sft::train
