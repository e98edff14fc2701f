// From texts and settings to options: values, precedence, other names, messages.
#include <gtest/gtest.h>

#include "support.h"

namespace sft::config {
namespace parse_test {

TEST(Parse, NothingGivesTheDefaults) {
  const ParsedOptions parsed = parse_options({}, {});
  EXPECT_EQ(to_ini(parsed.options), to_ini(Options{}));
  EXPECT_TRUE(parsed.notices.empty());
}

TEST(Parse, ReadsEveryType) {
  const Options o =
      parse_text(
          "bf16 = True\nmax_steps = 1000\nlearning_rate = 2e-5\noutput_dir = out/x\nmax_length = None\n"
          "eval_steps = 0.25\ndisable_tqdm = 1\nlr_scheduler_type = cosine\ndata_seed = 7\nsave_total_limit "
          "= 2\n")
          .options;
  EXPECT_TRUE(o.precision.bf16);
  EXPECT_EQ(o.schedule.max_steps, 1000);
  EXPECT_EQ(o.optimizer.learning_rate, 2e-5);
  EXPECT_EQ(o.save.output_dir, "out/x");
  EXPECT_EQ(o.data.max_length, std::nullopt);
  EXPECT_EQ(o.eval.eval_steps, 0.25);
  EXPECT_EQ(o.logging.disable_tqdm, true);
  EXPECT_EQ(o.schedule.lr_scheduler_type, "cosine");
  EXPECT_EQ(o.data.data_seed, 7);
  EXPECT_EQ(o.save.save_total_limit, 2);
}

TEST(Parse, TruthHasSeveralWords) {
  for (const char* word : {"true", "True", "TRUE", "1", "yes", "on"}) {
    EXPECT_TRUE(parse_text(std::string("bf16 = ") + word).options.precision.bf16) << word;
  }
  for (const char* word : {"false", "False", "0", "no", "off"}) {
    EXPECT_FALSE(parse_text("bf16 = true", {std::string("bf16=") + word}).options.precision.bf16) << word;
  }
}

TEST(Parse, ChoicesIgnoreCaseAndTakeHuggingFacesLogLevels) {
  EXPECT_EQ(parse_text("lr_scheduler_type = Cosine").options.schedule.lr_scheduler_type, "cosine");
  EXPECT_EQ(parse_text("log_level = passive").options.logging.log_level, "info");
  EXPECT_EQ(parse_text("log_level = critical").options.logging.log_level, "error");
  EXPECT_EQ(parse_text("report_to = None").options.logging.report_to, "none");
  EXPECT_EQ(parse_text("report_to = tensorboard, all").options.logging.report_to, "tensorboard,all");
}

TEST(Parse, LaterFilesWinAndTheCommandLineWinsOverAll) {
  const std::vector<IniText> files{{"a.ini", "seed = 1\nmax_steps = 10\nevaluation_strategy = no"},
                                   {"b.ini", "seed = 2\neval_strategy = epoch\neval_dataset = e.h5"}};
  EXPECT_EQ(parse_options(files, {}).options.data.seed, 2);
  EXPECT_EQ(parse_options(files, {}).options.schedule.max_steps, 10);
  EXPECT_EQ(parse_options(files, {}).options.eval.eval_strategy, "epoch");
  EXPECT_EQ(parse_options(files, {"seed=3", "seed=4"}).options.data.seed, 4);
  EXPECT_EQ(parse_options(files, {"evaluation-strategy=no"}).options.eval.eval_strategy, "no");
}

TEST(Parse, FalseUnderAnotherNameTakesBackWhatAnEarlierFileSays) {
  const std::vector<IniText> files{{"a.ini", "use_cpu = true\ngroup_by_length = true"}};
  const ParsedOptions parsed = parse_options(files, {"use_cpu=false", "group_by_length=false"});
  EXPECT_EQ(parsed.options.runtime.device, "auto");
  EXPECT_EQ(parsed.options.data.train_sampling_strategy, "random");
  ASSERT_EQ(parsed.notices.size(), 1u);
  EXPECT_EQ(parsed.notices[0],
            "taken as: use_cpu -> device = cpu, group_by_length -> train_sampling_strategy = group_by_length, "
            "use_cpu -> device = auto, group_by_length -> train_sampling_strategy = random");
  // It says nothing about another value, nor against what stands beside it.
  EXPECT_EQ(parse_text("device = cuda", {"no_cuda=false"}).options.runtime.device, "cuda");
  EXPECT_EQ(parse_text("", {"device=cpu", "no_cuda=false"}).options.runtime.device, "cpu");
  EXPECT_EQ(parse_text("", {"use_cpu=true", "use_cpu=false"}).options.runtime.device, "auto");
}

TEST(Parse, TheCommandLineMayNotUseTwoNamesForOneOption) {
  EXPECT_EQ(error_of_text("", {"warmup_ratio=0.1", "warmup_steps=0"}),
            "command line: warmup_steps was already given as warmup_ratio");
  EXPECT_EQ(parse_text("warmup_ratio = 0.1", {"warmup_steps=0"}).options.schedule.warmup_steps, 0);
  EXPECT_EQ(parse_text("", {"warmup_ratio=None", "warmup_steps=5"}).options.schedule.warmup_steps, 5);
}

TEST(Parse, FlagsAreDeniedAsTransformersCommandLineDoes) {
  EXPECT_FALSE(parse_text("watchdog = true", {"no_watchdog=true"}).options.runtime.watchdog);
  EXPECT_FALSE(parse_text("gradient_checkpointing = true", {"no-gradient-checkpointing=true"})
                   .options.precision.gradient_checkpointing);
  EXPECT_EQ(parse_text("no_dataloader_pin_memory = true").notices.at(0),
            "without effect in sft-dist: dataloader_pin_memory");
  EXPECT_EQ(error_of_text("no_learning_rate = true"),
            "run.ini:1: there is no option no_learning_rate; did you mean learning_rate?");
}

TEST(Parse, ListsMayBeWrittenAsPythonDoes) {
  EXPECT_EQ(parse_text("lora_target_modules = [\"q_proj\", 'v_proj']").options.adapter.lora_target_modules,
            "q_proj,v_proj");
  EXPECT_EQ(parse_text("report_to = [\"tensorboard\"]").options.logging.report_to, "tensorboard");
  EXPECT_EQ(parse_text("report_to = []").options.logging.report_to, "none");
  EXPECT_EQ(error_of_text("lora_target_modules = [\"q proj\"]"),
            "run.ini:1: lora_target_modules = [\"q proj\"]: must be names separated by commas, or None");
}

TEST(Parse, NoneLeavesWhatTransformersDecides) {
  EXPECT_TRUE(parse_text("activation_checkpointing = None\ngradient_checkpointing = true")
                  .options.precision.gradient_checkpointing);
  EXPECT_EQ(error_of_text("bf16 = None"),
            "run.ini:1: bf16 = None: None is not allowed: leave the option out for its default, false");
}

TEST(Parse, SettingsAloneAreReadAsFarAsTheyCanBe) {
  const auto runtime = parse_settings_leniently({"watchdog-start-seconds=7", "watchdog=off", "max_steps=many"}).runtime;
  EXPECT_EQ(runtime.watchdog_start_seconds, 7);
  EXPECT_FALSE(runtime.watchdog);
  EXPECT_EQ(parse_settings_leniently({"watchdog_start_seconds=-1"}).runtime.watchdog_start_seconds, 600);
}

TEST(Parse, OneFileMayNotSayTwoThings) {
  EXPECT_EQ(error_of_text("seed = 1\nmax_steps = 5\nseed = 1"),
            "run.ini:3: seed was already given at run.ini:1");
  EXPECT_EQ(error_of_text("warmup_steps = 3\nwarmup-ratio = 0.1"),
            "run.ini:2: warmup_ratio was already given at run.ini:1 as warmup_steps");
  EXPECT_EQ(error_of_text("packing = false\npacking = false"),
            "run.ini:2: packing was already given at run.ini:1");
  EXPECT_EQ(parse_text("use_cpu = false\ndevice = cuda").options.runtime.device, "cuda");
}

TEST(Parse, OtherNamesAreTakenWithOneNotice) {
  const ParsedOptions parsed = parse_text(
      "evaluation_strategy = steps\nmax_seq_length = 512\nwarmup_ratio = 0.03\ntokenizer = t\n"
      "model = m\nuse_cpu = true\nactivation_checkpointing = true\neval_dataset = e.h5\n"
      "per_gpu_train_batch_size = 2\nno_cuda = false\n");
  EXPECT_EQ(parsed.options.eval.eval_strategy, "steps");
  EXPECT_EQ(parsed.options.data.max_length, 512);
  EXPECT_EQ(parsed.options.schedule.warmup_steps, 0.03);
  EXPECT_EQ(parsed.options.prepare.tokenizer_name_or_path, "t");
  EXPECT_EQ(parsed.options.model.model_name_or_path, "m");
  EXPECT_EQ(parsed.options.runtime.device, "cpu");
  EXPECT_TRUE(parsed.options.precision.gradient_checkpointing);
  EXPECT_EQ(parsed.options.batch.per_device_train_batch_size, 2);
  ASSERT_EQ(parsed.notices.size(), 2u);
  EXPECT_EQ(parsed.notices[0],
            "taken as: evaluation_strategy -> eval_strategy, max_seq_length -> max_length, warmup_ratio -> "
            "warmup_steps = 0.03, "
            "tokenizer -> tokenizer_name_or_path, model -> model_name_or_path, use_cpu -> device = cpu, "
            "activation_checkpointing -> gradient_checkpointing = true, per_gpu_train_batch_size -> "
            "per_device_train_batch_size");
  EXPECT_EQ(parsed.notices[1], "without effect in sft-dist: no_cuda");
}

TEST(Parse, AnOptionAndItsNegationAreOne) {
  EXPECT_EQ(error_of_text("bf16 = true\nno_bf16 = true"), "run.ini:2: no_bf16 was already given at run.ini:1 as bf16");
  EXPECT_EQ(error_of_text("no_watchdog = true\nwatchdog = true"), "run.ini:2: watchdog was already given at run.ini:1 as no_watchdog");
}

TEST(Parse, EachOtherNameLeadsToItsOption) {
  const auto prepare = [](const std::string& text) { return parse_text(text).options.prepare; };
  EXPECT_EQ(parse_text("model_name = m").options.model.model_name_or_path, "m");
  EXPECT_EQ(prepare("tokenizer_name = t").tokenizer_name_or_path, "t");
  EXPECT_EQ(prepare("processing_class = t").tokenizer_name_or_path, "t");
  EXPECT_EQ(prepare("dataset_train_split = a").dataset_split, "a");
  EXPECT_EQ(prepare("dataset_test_split = b").eval_split, "b");
  EXPECT_EQ(parse_text("per_gpu_eval_batch_size = 3").options.batch.per_device_eval_batch_size, 3);
}

TEST(Parse, OtherNamesHaveTheirOwnRanges) {
  // As warmup_steps these would be one step, and five.
  EXPECT_EQ(error_of_text("warmup_ratio = 1"),
            "run.ini:1: warmup_ratio = 1: must be a fraction of all steps in [0, 1)");
  EXPECT_EQ(error_of_text("warmup_ratio = 5"),
            "run.ini:1: warmup_ratio = 5: must be a fraction of all steps in [0, 1)");
  EXPECT_EQ(error_of_text("use_cpu = maybe"), "run.ini:1: use_cpu = maybe: must be true or false");
  EXPECT_EQ(error_of_text("max_seq_length = big"),
            "run.ini:1: max_seq_length = big: must be a whole number, or None");
}

TEST(Parse, UnknownNamesGetTheNearest) {
  EXPECT_EQ(error_of_text("\nlerning_rate = 1"),
            "run.ini:2: there is no option lerning_rate; did you mean learning_rate?");
  EXPECT_EQ(error_of_text("Max_Steps = 1"),
            "run.ini:1: there is no option Max_Steps; did you mean max_steps?");
  EXPECT_EQ(error_of_text("evaluation_strateg = no"),
            "run.ini:1: there is no option evaluation_strateg; did you mean evaluation_strategy?");
  EXPECT_EQ(error_of_text("frobnicate = 1"),
            "run.ini:1: there is no option frobnicate; sft-dist --help lists them");
  EXPECT_EQ(error_of_text("lr = 1"), "run.ini:1: there is no option lr; did you mean learning_rate?");
  EXPECT_EQ(error_of_text("train_batch_size = 8"),
            "run.ini:1: there is no option train_batch_size; did you mean per_device_train_batch_size?");
  EXPECT_EQ(error_of_text("dataloader_num_worker = 1"),
            "run.ini:1: there is no option dataloader_num_worker; did you mean dataloader_num_workers?");
  EXPECT_EQ(error_of_text("", {"bf61=true"}), "command line: there is no option bf61; did you mean bf16?");
}

TEST(Parse, ASuggestionSetsSomething) {
  const auto suggested = [](const std::string& name) {
    const std::string text = error_of_text(name + " = 64");
    const std::size_t at = text.find("did you mean ");
    return at == text.npos ? "" : text.substr(at + 13, text.size() - at - 14);
  };
  EXPECT_EQ(suggested("lora_rank"), "lora_r");
  EXPECT_EQ(suggested("task_type"), "lora_task_type");
  EXPECT_EQ(suggested("use_4bit"), "load_in_4bit");
  EXPECT_EQ(suggested("local_rnk"), "local_rank");  // a slip
  EXPECT_NE(suggested("global_rank"), "local_rank");
}

TEST(Parse, NullIsNone) {
  EXPECT_EQ(parse_text("eos_token = null\nmax_length = NULL\nresume_from_checkpoint = null").options.prepare.eos_token, "");
  EXPECT_EQ(parse_text("max_length = null").options.data.max_length, std::nullopt);
  EXPECT_EQ(parse_text("run_name = \"null\"").options.logging.run_name, "null");
}

TEST(Parse, PagedOptimizersAreTheirEquals) {
  EXPECT_EQ(parse_text("optim = paged_adamw_8bit").options.optimizer.optim, "adamw_8bit");
  EXPECT_EQ(parse_text("optim = paged_adamw_32bit").options.optimizer.optim, "adamw_torch");
  EXPECT_EQ(parse_text("optim = paged_lion_32bit").options.optimizer.optim, "lion_32bit");
}

TEST(Parse, WrongTypesNameKeyPlaceValueAndWhatIsAllowed) {
  EXPECT_EQ(error_of_text("max_steps = many"), "run.ini:1: max_steps = many: must be a whole number");
  EXPECT_EQ(error_of_text("max_steps = 1.5"), "run.ini:1: max_steps = 1.5: must be a whole number");
  EXPECT_EQ(error_of_text("max_steps = 99999999999999999999"),
            "run.ini:1: max_steps = 99999999999999999999: must be a whole number");
  EXPECT_EQ(error_of_text("learning_rate = 2e-5x"), "run.ini:1: learning_rate = 2e-5x: must be a number");
  EXPECT_EQ(error_of_text("learning_rate = nan"), "run.ini:1: learning_rate = nan: must be a number");
  EXPECT_EQ(error_of_text("learning_rate = inf"), "run.ini:1: learning_rate = inf: must be a number");
  EXPECT_EQ(error_of_text("learning_rate = 1e999"), "run.ini:1: learning_rate = 1e999: must be a number");
  EXPECT_EQ(error_of_text("bf16 = ja"), "run.ini:1: bf16 = ja: must be true or false");
  EXPECT_EQ(error_of_text("disable_tqdm = 2"), "run.ini:1: disable_tqdm = 2: must be true or false, or None");
  EXPECT_EQ(error_of_text("seed ="), "run.ini:1: seed = : must be a whole number");
  EXPECT_EQ(error_of_text("device = tpu"), "run.ini:1: device = tpu: must be one of auto, cpu, cuda");
  EXPECT_EQ(error_of_text("optim = lion_8bit"),
            "run.ini:1: optim = lion_8bit: must be one of adamw_torch, adamw_torch_fused, sgd, lion_32bit, adafactor, "
            "schedule_free_adamw, adamw_8bit");
  EXPECT_EQ(error_of_text("report_to = tensorboard,wandb"),
            "run.ini:1: report_to = tensorboard,wandb: must be one of none, tensorboard, all");
  EXPECT_EQ(error_of_text("seed = None"),
            "run.ini:1: seed = None: None is not allowed: leave the option out for its default, 42");
  EXPECT_EQ(error_of_text("output_dir = ''"), "run.ini:1: output_dir = : must not be empty");
}

TEST(Parse, RangesAreChecked) {
  EXPECT_EQ(error_of_text("num_train_epochs = 1e20"),
            "run.ini:1: num_train_epochs = 1e20: must be a number, from 0 to 1000000000");
  EXPECT_EQ(error_of_text("per_device_train_batch_size = 0"),
            "run.ini:1: per_device_train_batch_size = 0: must be a whole number, from 1 to 10000000");
  EXPECT_EQ(error_of_text("global_batch_size = 0"),
            "run.ini:1: global_batch_size = 0: must be a whole number, from 1 to 10000000, or None");
  EXPECT_EQ(
      error_of_text("save_steps = 1.5"),
      "run.ini:1: save_steps = 1.5: must be a whole number of steps, or a fraction of all steps below 1");
  for (const char* line : {"per_device_eval_batch_size = -1",
                           "gradient_accumulation_steps = 0",
                           "learning_rate = -1e-5",
                           "weight_decay = -0.1",
                           "adam_beta1 = 1",
                           "adam_beta2 = -0.1",
                           "adam_epsilon = -1",
                           "max_grad_norm = -1",
                           "max_non_finite_steps = 0",
                           "max_steps = -2",
                           "num_train_epochs = -1",
                           "warmup_steps = -1",
                           "warmup_steps = 2.5",
                           "logging_steps = -5",
                           "logging_steps = 1.01",
                           "eval_steps = 7.5",
                           "save_total_limit = 0",
                           "max_length = 0",
                           "max_rows = 0",
                           "dataset_num_proc = 0",
                           "seed = -1",
                           "seed = 4294967296",
                           "data_seed = -1",
                           "threads_per_rank = -1",
                           "max_shard_size = 5",
                           "max_shard_size = 0GB",
                           "max_shard_size = GB",
                           "max_shard_size = 5GX",
                           "formatting_func = file.py",
                           "formatting_func = :f",
                           "lr_scheduler_kwargs = {\"a\": 1",
                           "lr_scheduler_kwargs = [1]",
                           "lr_scheduler_kwargs = a",
                           "lr_scheduler_kwargs = a=1,",
                           "lr_scheduler_kwargs = =1"}) {
    const std::string message = error_of_text(line);
    EXPECT_EQ(message.rfind(std::string("run.ini:1: ") + line + ": must be ", 0), 0u) << message;
  }
}

TEST(Parse, EdgesOfRangesAreTaken) {
  for (const char* line :
       {"learning_rate = 0", "adam_beta1 = 0", "adam_beta2 = 0.9999", "max_grad_norm = 0", "max_length = 1",
        "max_steps = 1e3", "max_steps = 500.0", "max_steps = -1", "seed = 4294967295", "warmup_steps = 0.5",
        "warmup_steps = 1e3", "save_steps = 0.001", "max_shard_size = 2.5gb", "max_shard_size = 500 MiB",
        "lr_scheduler_kwargs = num_cycles=2, power=1.5", "lr_scheduler_kwargs = {\"num_cycles\": 2}",
        "lr_scheduler_kwargs = None", "formatting_func = a/b.py:f", "global_batch_size = 8"}) {
    EXPECT_NO_THROW(parse_text(line)) << line;
  }
}

TEST(Parse, AllProblemsOfAllSourcesAreListed) {
  const std::string message = config_error_of([] {
    parse_options(
        {{"a.ini", "seed = x\nfp16 = true\nnonsense"}, {"b.ini", "mx_steps = 1\neval_strategy = epoch"}},
        {"optim=lamb"});
  });
  EXPECT_EQ(message,
            "a.ini:3: 'nonsense' is not of the form key = value\n"
            "a.ini:1: seed = x: must be a whole number\n"
            "a.ini:2: fp16 = true: use bf16 = true, or float32\n"
            "b.ini:1: there is no option mx_steps; did you mean max_steps?\n"
            "command line: optim = lamb: must be one of adamw_torch, adamw_torch_fused, sgd, lion_32bit, adafactor, "
            "schedule_free_adamw, adamw_8bit\n"
            "eval_strategy = epoch needs eval_dataset, the HDF5 file to evaluate on");
}

TEST(Parse, ARefusedValueCausesNoSecondMessage) {
  // Were save_steps taken as its default, or as 0, there would be another message about save_strategy.
  EXPECT_EQ(error_of_text("global_batch_size = 12\nper_device_train_batch_size = five"),
            "run.ini:2: per_device_train_batch_size = five: must be a whole number");
}

TEST(Parse, MessagesAreShortAndHarmlessForATerminal) {
  const std::string message = error_of_text("", {"seed=\x1b[31m" + std::string(500, 'x')});
  EXPECT_EQ(message.find('\x1b'), std::string::npos);
  EXPECT_LT(message.size(), 200u);
}

TEST(Parse, ResumeTakesFlagsAndFolders) {
  const auto resume = [](const std::string& value) {
    return parse_text("resume_from_checkpoint = " + value).options.save.resume_from_checkpoint;
  };
  EXPECT_EQ(resume("True"), "true");
  EXPECT_EQ(resume("false"), "");
  EXPECT_EQ(resume("None"), "");
  EXPECT_EQ(resume("out/checkpoint-5"), "out/checkpoint-5");
}

TEST(Parse, HomeFolderIsExpanded) {
  setenv("HOME", "/home/somebody", 1);
  EXPECT_EQ(parse_text("output_dir = ~/out").options.save.output_dir, "/home/somebody/out");
  EXPECT_EQ(parse_text("output_dir = out~").options.save.output_dir, "out~");
  EXPECT_EQ(parse_text("run_name = ~/out").options.logging.run_name, "~/out");
}

TEST(ParseInteger, NamesWhatIsWrong) {
  EXPECT_EQ(parse_integer(" 42", "--ids"), 42);
  EXPECT_EQ(config_error_of([] { parse_integer("4x", "--ids"); }), "--ids = 4x: must be a whole number");
}

}  // namespace parse_test
}  // namespace sft::config
