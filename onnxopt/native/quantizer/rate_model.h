// How many bits an integer will take: histograms of magnitudes, one for each class of (row magnitude x column
// magnitude), which is what the context coder's main context is made of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace onnxopt::quantizer {

constexpr int32_t kMaxLevel = 1 << 22;  // a float still tells such a magnitude from the next half

// Magnitudes below 16 have a bucket each, larger ones eight an octave.
constexpr int kBuckets = 16 + 8 * (22 - 4) + 1;
constexpr int kPerOctave = 2;  // classes of magnitude
constexpr int kOctaves = 14;
constexpr int kLowestOctave = -7;
constexpr int kClasses = kOctaves * kPerOctave;

struct RateModel {
  // The class of an element is trunc(row_level + col_level) within 0..kClasses-1.
  std::vector<float> row_level, col_level;
  std::vector<float> bits;  // [kClasses][kBuckets], the sign included

  // Of q[rows][cols]. Returns the bits that an adaptive coder with these classes takes for q.
  double learn(const int32_t* q, size_t rows, size_t cols);
};

}  // namespace onnxopt::quantizer
