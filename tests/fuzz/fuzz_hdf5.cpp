// HDF5 files through sft-inspect and all the checks behind it. libhdf5 is not instrumented and crashes in a
// process of its own, so nothing guides the mutations; what must hold is that whatever it does becomes a
// refusal.
#include "data/dataset_file.h"
#include "data/inspector.h"
#include "fuzz.h"

namespace data = sft::data;

void sft::fuzz::one_input(std::string_view input) {
  sft::fuzz::accepted([&] {
    auto bytes = std::make_shared<const sft::base::File>(sft::fuzz::file_of(input));
    data::verify_content(data::DatasetFile::open(bytes, data::inspect(*bytes)));
  });
}
