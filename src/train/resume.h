// Finding a checkpoint to resume from, and putting it in place.
#pragma once

#include <filesystem>
#include <memory>

#include "sft/checkpoint/checkpoint.h"
#include "sft/config/options.h"
#include "sft/engine/engine.h"
#include "sft/metrics/log.h"
#include "sft/optim/optimizer.h"
#include "sft/parallel/communicator.h"
#include "sft/train/train_state.h"

namespace sft::train {

// Collective. Null: start afresh.
// Error(kConfig): output_dir holds results and neither resume_from_checkpoint nor overwrite_output_dir is
// set.
std::unique_ptr<checkpoint::Reader> find_checkpoint(const config::SaveOptions& options,
                                                    checkpoint::Store& store, parallel::Communicator& comm);

// Collective. Removes checkpoints and log of an earlier run, for overwrite_output_dir.
void discard_results(const config::SaveOptions& options, checkpoint::Store& store, parallel::Communicator& comm);

// Collective. Of a run that goes on from a checkpoint it names: renames those in output_dir that would be taken for its own, which
// are the later ones, or all where the named one does not lie there.
void set_others_aside(int64_t step, checkpoint::Place place, const config::SaveOptions& options, checkpoint::Store& store);

// Collective. Parameters, optimizer state and log history from the checkpoint; returns its state.
TrainState restore(const checkpoint::Reader& reader, engine::Engine& engine, optim::Optimizer& optimizer,
                   metrics::TrainLog& log, parallel::Communicator& comm);

// Local. Every tensor of the decoder is in the folder with the right shape (so that no rank fails alone while
// ranks load together).
void check_weights(const model::Decoder& decoder, const std::filesystem::path& model_dir);

// Collective. The best checkpoint that the state speaks of may have been removed: then there is none (a
// warning). Of a state that is not from output_dir/checkpoint-<step> it is that of another course: the best
// model is sought anew.
void forget_lost_best_model(TrainState& state, checkpoint::Place place, checkpoint::Store& store,
                            parallel::Communicator& comm);

}  // namespace sft::train
