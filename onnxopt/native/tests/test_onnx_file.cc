#include <string>
#include <vector>

#include "check.h"
#include "onnx_file.h"

using onnxopt::Bytes;

namespace {

std::string field(unsigned number, const std::string& value) {
  std::string out{static_cast<char>(number << 3 | 2)};
  size_t size = value.size();
  for (; size >= 0x80; size >>= 7) out += static_cast<char>(size | 0x80);
  return out + static_cast<char>(size) + value;
}

std::string varint_field(unsigned number, unsigned value) {
  return {static_cast<char>(number << 3), static_cast<char>(value)};
}

Bytes view(const std::string& s) { return {reinterpret_cast<const uint8_t*>(s.data()), s.size()}; }

std::string text(Bytes b) { return {reinterpret_cast<const char*>(b.data), b.size}; }

const std::string kNode = field(
    1, field(1, "onnxopt.container") + field(1, "x") + field(4, "CompressedModel") + field(7, "onnxopt"));
const std::string kTensor = varint_field(2, 2) + field(8, "onnxopt.container");

std::string model(const std::string& tensor, const std::string& more_nodes = "") {
  const std::string other = field(5, field(8, "other") + field(9, "xyz"));
  return varint_field(1, 8) + field(2, "producer") + field(7, kNode + more_nodes + other + field(5, tensor)) +
         field(8, varint_field(2, 13));
}

void finds_the_container() {
  CHECK(text(onnxopt::find_container(view(model(kTensor + field(9, "payload"))))) == "payload");
  CHECK(text(onnxopt::find_container(view(model(field(9, "payload") + kTensor)))) == "payload");
  const std::string other_name = field(5, varint_field(2, 2) + field(8, "x") + field(9, "no payload"));
  const std::string second =
      field(1, field(1, "y") + field(4, "CompressedModel") + field(7, "onnxopt")) + other_name;
  const std::string named_y =
      field(7, second + field(5, varint_field(2, 2) + field(8, "y") + field(9, "this")));
  CHECK(text(onnxopt::find_container(view(named_y))) == "this");
  const std::string bare("onnxopt\0rest", 12);
  CHECK(text(onnxopt::find_container(view(bare))) == bare);
}

void tells_whether_the_container_is_all() {
  const std::string node = field(1, "onnxopt.container") + field(1, "x") + field(2, "y") +
                           field(4, "CompressedModel") + field(7, "onnxopt");
  const auto alone = [&](const std::string& rest) {
    const std::string tensor = field(5, kTensor + field(9, "payload"));
    return onnxopt::find_payload(view(field(7, field(1, node) + tensor + rest))).alone;
  };
  const std::string x = field(11, field(1, "x"));
  const std::string y = field(12, field(1, "y"));
  CHECK(alone(x + y));
  CHECK(!alone(x + y + field(1, field(4, "ZipMap"))));
  CHECK(!alone(x + y + field(11, field(1, "unused"))));
  CHECK(!alone(x + y + field(12, field(1, "x"))));
  CHECK(!alone(x + y + y));
}

void finds_external_data() {
  const auto entry = [](const char* key, const char* value) {
    return field(13, field(1, key) + field(2, value));
  };
  const std::string file =
      model(kTensor + entry("location", "w.bin") + entry("offset", "4096") + entry("length", "17"));
  const onnxopt::Payload found = onnxopt::find_payload(view(file));
  CHECK(found.bytes.data == nullptr && found.location == "w.bin" && found.offset == 4096 &&
        found.length == 17);
  CHECK_THROWS(onnxopt::find_container(view(file)));
  const std::string wrong = model(kTensor + entry("offset", "-1"));
  CHECK_THROWS(onnxopt::find_payload(view(wrong)));
}

void knows_foreign_operators() {
  const auto importing = [](const char* domain) {
    return onnxopt::has_foreign_operators(view(field(8, field(1, domain) + varint_field(2, 1))));
  };
  CHECK(!importing("") && !importing("ai.onnx.ml") && !importing("com.microsoft.nchwc"));
  CHECK(importing("my.ops") && importing("ai.onnx.mine"));
  CHECK(!onnxopt::has_foreign_operators(view(field(8, varint_field(2, 17)))));
}

void knows_control_flow() {
  const auto having = [](const char* op) {
    const std::string inside = field(5, field(6, field(1, field(4, "Loop"))));  // an attribute's graph
    return onnxopt::has_control_flow(
        view(field(7, field(1, field(4, "Relu")) + field(1, field(4, op) + inside))));
  };
  CHECK(having("If") && having("Loop") && having("Scan"));
  CHECK(!having("LoopInvariant") && !having("Identity"));
}

void refuses_everything_else() {
  CHECK_THROWS(onnxopt::find_container({nullptr, 0}));
  const std::string plain = varint_field(1, 8) + field(7, field(1, field(4, "Relu")));
  CHECK_THROWS(onnxopt::find_container(view(plain)));
  const std::string endless(11, '\xff');
  CHECK_THROWS(onnxopt::find_container(view(endless)));
  const std::string file = model(kTensor + field(9, "payload"));
  for (size_t n = 0; n < file.size();
       ++n) {  // cut anywhere: an error or, after the graph, the same container
    const std::string cut = file.substr(0, n);
    try {
      CHECK(text(onnxopt::find_container(view(cut))) == "payload");
    } catch (const onnxopt::Error&) {
    }
  }
  for (size_t at = 0; at < file.size();
       ++at) {  // any byte changed: anything but a crash, and a view into the file
    for (int bit = 0; bit < 8; ++bit) {
      std::string changed = file;
      changed[at] = static_cast<char>(changed[at] ^ (1 << bit));
      try {
        const Bytes found = onnxopt::find_container(view(changed));
        CHECK(found.data >= view(changed).data &&
              found.data + found.size <= view(changed).data + changed.size());
      } catch (const onnxopt::Error&) {
      }
    }
  }
}

}  // namespace

int main() {
  finds_the_container();
  tells_whether_the_container_is_all();
  finds_external_data();
  knows_foreign_operators();
  knows_control_flow();
  refuses_everything_else();
  return 0;
}
