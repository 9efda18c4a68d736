// Lists the weights of a compressed model: name, bytes when decoded, bytes in the file, codec.
//
//   c++ -std=c++17 list_weights.cc -I../include -L<folder> -lonnxopt -o list_weights && ./list_weights
//   model.onnx
#include <cstdio>
#include <fstream>
#include <iterator>
#include <vector>

#include "onnxopt.hpp"

int main(int argc, char** argv) try {
  if (argc < 2) throw onnxopt::Error("usage: list_weights model.onnx");
  std::ifstream stream(argv[1], std::ios::binary);
  const std::vector<char> file{std::istreambuf_iterator<char>(stream), {}};
  const onnxopt::Container container(file.data(), file.size());
  for (std::size_t i = 0; i < container.size(); ++i) {
    const onnxopt_entry entry = container.entry(i);
    const std::vector<std::uint8_t> values = container.decode(i);
    std::printf("%s: %zu bytes, stored as %llu of %s\n", entry.name, values.size(),
                static_cast<unsigned long long>(entry.coded_size), entry.codec);
  }
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
