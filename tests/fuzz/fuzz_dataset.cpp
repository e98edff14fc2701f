// What sft-dist itself does with a data set file: it takes sft-inspect's answer, which is not trusted, reads
// and decodes the arrays it speaks of, and checks every value.
#include "data/dataset_file.h"
#include "data/file_layout.h"
#include "fuzz.h"

namespace data = sft::data;

// The input is the answer, a zero byte, and the file.
void sft::fuzz::one_input(std::string_view input) {
  const std::size_t end = input.find('\0');
  if (end == std::string_view::npos) return;
  sft::fuzz::accepted([&] {
    data::FileLayout layout = data::layout_from_json(input.substr(0, end), "input");
    auto bytes = std::make_shared<const sft::base::File>(sft::fuzz::file_of(input.substr(end + 1)));
    for (auto& [name, array] : layout.arrays) {
      if (array.size * array.element_bytes > 1 << 22) return;  // allowed, and slow
    }
    data::verify_content(data::DatasetFile::open(bytes, layout));
  });
}
