// Options that do not go together, and numbers of steps.
#include <gtest/gtest.h>

#include "support.h"

namespace sft::config {
namespace validate_test {

TEST(Contradictions, AreNamedWithTheOptionsInvolved) {
  EXPECT_EQ(error_of_text("max_steps = 0\nnum_train_epochs = 0"),
            "max_steps = 0 and num_train_epochs = 0: nothing would be trained; one of them must be above 0");
  EXPECT_EQ(error_of_text("global_batch_size = 12\nper_device_train_batch_size = 5"),
            "global_batch_size = 12 is not a multiple of per_device_train_batch_size = 5");
  EXPECT_EQ(error_of_text("logging_steps = 0"),
            "logging_strategy = steps needs logging_steps above 0 (never: logging_strategy = no)");
  EXPECT_EQ(error_of_text("save_steps = 0"),
            "save_strategy = steps needs save_steps above 0 (never: save_strategy = no)");
  EXPECT_EQ(error_of_text("eval_strategy = steps\neval_steps = 0\neval_dataset = e.h5"),
            "eval_strategy = steps needs eval_steps above 0 (never: eval_strategy = no)");
  EXPECT_EQ(error_of_text("eval_strategy = epoch"),
            "eval_strategy = epoch needs eval_dataset, the HDF5 file to evaluate on");
  EXPECT_EQ(error_of_text("eval_on_start = true"),
            "eval_on_start = true needs eval_dataset, the HDF5 file to evaluate on");
  EXPECT_EQ(error_of_text("overwrite_output_dir = true\nresume_from_checkpoint = true"),
            "overwrite_output_dir = true and resume_from_checkpoint = true: choose one");
  EXPECT_EQ(error_of_text("report_to = none,tensorboard"),
            "report_to = none,tensorboard: none goes with nothing else");
  EXPECT_EQ(error_of_text("device = cpu\ncomm_backend = nccl"),
            "comm_backend = nccl is for GPUs, but device = cpu");
  EXPECT_EQ(error_of_text("train_file = a\ndataset_name = b"),
            "train_file and dataset_name are both set: give one source");
  EXPECT_EQ(error_of_text("loss_type = dft\nlabel_smoothing_factor = 0.1"),
            "label_smoothing_factor = 0.1 needs loss_type = nll, but it is dft");
  EXPECT_EQ(error_of_text("packing = true\nmax_length = None"),
            "packing needs max_length, the length of the rows it fills");
  EXPECT_EQ(error_of_text("formatting_func = a.py:f\nassistant_only_loss = true"),
            "formatting_func makes plain text of a row, which has no completion and no assistant: leave out "
            "assistant_only_loss");
  EXPECT_EQ(error_of_text("formatting_func = a.py:f\ncompletion_only_loss = true"),
            "formatting_func makes plain text of a row, which has no completion and no assistant: leave out "
            "completion_only_loss");
  EXPECT_NO_THROW(parse_text("formatting_func = a.py:f\ncompletion_only_loss = false"));
}

// transformers' TrainingArguments refuses the same combinations.
TEST(Contradictions, OfTheBestModel) {
  const std::string load = "load_best_model_at_end = true\neval_dataset = e.h5\n",
                    eval = "eval_strategy = steps\n";
  EXPECT_EQ(error_of_text(load), "load_best_model_at_end = true needs evaluations: set eval_strategy");
  EXPECT_EQ(error_of_text(load + "eval_strategy = epoch"),
            "load_best_model_at_end = true needs save_strategy = eval_strategy or save_strategy = best, but "
            "eval_strategy = epoch and save_strategy = steps");
  for (const char* steps : {"save_steps = 15\neval_steps = 10", "save_steps = 10\neval_steps = 0.1",
                            "save_steps = 0.25\neval_steps = 0.1"})
    EXPECT_NE(error_of_text(load + eval + steps).find("needs save_steps to be a multiple of eval_steps"),
              std::string::npos)
        << steps;
  for (const char* steps : {"save_steps = 20\neval_steps = 10", "save_steps = 0.3\neval_steps = 0.1",
                            "save_strategy = best\neval_steps = 7"})
    EXPECT_NO_THROW(parse_text(load + eval + steps)) << steps;
  EXPECT_EQ(error_of_text("save_strategy = best"),
            "save_strategy = best needs metric_for_best_model (loss, for instance) and eval_strategy");
  EXPECT_EQ(error_of_text("eval_dataset = e.h5\nearly_stopping_patience = 2\n" + eval),
            "early_stopping_patience = 2 needs metric_for_best_model (loss, for instance) and eval_strategy");
  EXPECT_EQ(error_of_text("early_stopping_threshold = 0.1"),
            "early_stopping_threshold = 0.1 needs early_stopping_patience");
  EXPECT_EQ(error_of_text("metric_for_best_model = eval_runtime"),
            "metric_for_best_model = eval_runtime tells how fast a machine is, not a model");
}

TEST(Validate, LossOptions) {
  EXPECT_EQ(parse_text("loss_type = chunked_nll").options.loss.loss_type, "nll");
  EXPECT_EQ(parse_text("loss_type = DFT\nlabel_smoothing_factor = 0").options.loss.loss_type, "dft");
  EXPECT_EQ(error_of_text("loss_type = kto"), "run.ini:1: loss_type = kto: must be one of nll, dft");
  EXPECT_EQ(error_of_text("label_smoothing_factor = 1"),
            "run.ini:1: label_smoothing_factor = 1: must be a number, in [0, 1)");
}

TEST(Contradictions, MicroBatchesOfTrlAreCutByRows) {
  EXPECT_EQ(*parse_text("micro_batch_tokens = 2048").options.batch.micro_batch_tokens, 2048);
  EXPECT_FALSE(parse_text("micro_batch_tokens = None").options.batch.micro_batch_tokens);
  EXPECT_EQ(error_of_text("micro_batch_tokens = 2048\ntrl_compat = true"),
            "micro_batch_tokens = 2048 cuts micro-batches by tokens; trl_compat = true reproduces means over "
            "those of "
            "TRL, which are cut by rows: leave one of them out");
  EXPECT_NE(error_of_text("micro_batch_tokens = 0").find("micro_batch_tokens = 0"), std::string::npos);
}

TEST(Contradictions, OfEvaluationSetsAreNamed) {
  EXPECT_EQ(
      error_of_text("eval_file = a=x.jsonl, b=y.jsonl\neval_dataset = a=x.h5, c=y.h5"),
      "eval_file = a=x.jsonl, b=y.jsonl and eval_dataset = a=x.h5, c=y.h5 must name the same evaluation "
      "sets");
  EXPECT_NO_THROW(parse_text("eval_file = a=x.jsonl, b=y.jsonl\neval_dataset = b=y.h5, a=x.h5"));
  const std::string split = "train_dataset = t.h5\ntest_split_size = 0.1\n";
  EXPECT_NO_THROW(parse_text(split + "eval_dataset = e.h5"));
  EXPECT_EQ(error_of_text(split),
            "test_split_size needs eval_dataset, the one HDF5 file for the rows set aside");
  EXPECT_EQ(error_of_text(split + "eval_dataset = a=e.h5, b=f.h5"),
            "test_split_size needs eval_dataset, the one HDF5 file for the rows set aside");
  EXPECT_EQ(error_of_text(split + "eval_dataset = e.h5\neval_file = e.jsonl"),
            "test_split_size makes the evaluation set of training rows: leave out eval_file and eval_split");
  EXPECT_EQ(error_of_text("eval_split = test\neval_dataset = a=e.h5, b=f.h5"),
            "eval_split = test is one evaluation set, eval_dataset names several");
}

TEST(Contradictions, StepsThatNobodyUsesMayBeZero) {
  EXPECT_NO_THROW(parse_text(
      "logging_strategy = no\nlogging_steps = 0\nsave_strategy = epoch\nsave_steps = 0\neval_steps = 0"));
  EXPECT_NO_THROW(parse_text("max_steps = 3\nnum_train_epochs = 0"));
  // eval_steps is logging_steps when unset.
  EXPECT_EQ(
      error_of_text("eval_strategy = steps\nlogging_strategy = no\nlogging_steps = 0\neval_dataset = e.h5"),
      "eval_strategy = steps needs eval_steps above 0 (never: eval_strategy = no)");
}

TEST(Validate, ChecksRangesOfOptionsMadeByHand) {
  Options options;
  options.batch.gradient_accumulation_steps = 0;
  options.optimizer.optim = "lamb";
  options.save.save_steps = 0;
  EXPECT_EQ(config_error_of([&] { validate(options); }),
            "gradient_accumulation_steps = 0: must be a whole number, from 1 to 10000000\n"
            "optim = lamb: must be one of adamw_torch, adamw_torch_fused, sgd, lion_32bit, adafactor, "
            "schedule_free_adamw, adamw_8bit\n"
            "save_strategy = steps needs save_steps above 0 (never: save_strategy = no)");
}

TEST(Validate, TrainingNeedsAModelAndData) {
  EXPECT_EQ(config_error_of([] { validate_for_training(Options{}); }),
            "model_name_or_path is not set: the folder or id of the model to fine-tune\n"
            "train_dataset is not set: the HDF5 file that sft-prepare writes");
  EXPECT_NO_THROW(validate_for_training(parse_text("model_name_or_path = m\ntrain_dataset = t.h5").options));
}

TEST(Notices, DoubtsAreNoErrors) {
  const auto warmup = parse_text("max_steps = 10\nwarmup_steps = 20").notices;
  ASSERT_EQ(warmup.size(), 1u);
  EXPECT_EQ(warmup[0], "warmup_steps = 20 is more than max_steps = 10: learning_rate is never reached");
  EXPECT_TRUE(parse_text("max_steps = 10\nwarmup_steps = 10").notices.empty());
  EXPECT_TRUE(parse_text("max_steps = 10\nwarmup_steps = 0.9").notices.empty());
  EXPECT_TRUE(parse_text("warmup_steps = 20").notices.empty());

  const auto derived = parse_text("global_batch_size = 32\ngradient_accumulation_steps = 2").notices;
  ASSERT_EQ(derived.size(), 1u);
  EXPECT_EQ(derived[0], "gradient_accumulation_steps = 2 is not used: global_batch_size decides");

  const std::pair<const char*, const char*> others[] = {
      {"lr_scheduler_type = constant\nwarmup_steps = 5",
       "warmup_steps = 5 is not used: lr_scheduler_type = constant has no warm-up, constant_with_warmup has"},
      {"eval_steps = 5", "eval_steps = 5 is not used: eval_strategy = no never evaluates"},
      {"packing_strategy = wrapped", "packing_strategy = wrapped is not used: packing = false"},
      {"packing_scope = dataset", "packing_scope = dataset is not used: packing = false"},
      {"use_dora = true\nlora_r = 64", "use_peft = false: the whole model is trained; not used: lora_r, use_dora"},
      {"save_only_model = true\nresume_from_checkpoint = true",
       "save_only_model = true: of its checkpoints only the one made when it is asked to stop can be resumed"}};
  for (const auto& [text, doubt] : others) {
    const auto notices = parse_text(text).notices;
    ASSERT_EQ(notices.size(), 1u) << text;
    EXPECT_EQ(notices[0], doubt);
  }
  for (const char* fine : {"lr_scheduler_type = constant\nwarmup_steps = 5\noptim = schedule_free_adamw",
                           "packing = true\npacking_strategy = wrapped", "use_peft = true\nlora_r = 64"})
    EXPECT_TRUE(parse_text(fine).notices.empty()) << fine;
}

// transformers' TrainerState.compute_steps: math.ceil(max_steps * num_steps) below 1, else the number itself.
TEST(ResolveSteps, FractionsAreRoundedUp) {
  EXPECT_EQ(resolve_steps(500, 1000), 500);
  EXPECT_EQ(resolve_steps(1, 1000), 1);
  EXPECT_EQ(resolve_steps(0.25, 1000), 250);
  EXPECT_EQ(resolve_steps(0.3, 7), 3);
  EXPECT_EQ(resolve_steps(0.5, 1), 1);
  EXPECT_EQ(resolve_steps(1e-9, 1000), 1);
  EXPECT_EQ(resolve_steps(0, 1000), 0);
  EXPECT_EQ(resolve_steps(0.07, 100), 8);  // 0.07 * 100 is 7.000000000000001, in Python too
}

}  // namespace validate_test
}  // namespace sft::config
