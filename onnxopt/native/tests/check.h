// The smallest test harness that does the job: CHECK prints where and what, and the process fails.
#pragma once

#include <cstdio>
#include <cstdlib>

#define CHECK(condition)                                                                 \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: CHECK(%s) failed\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                      \
    }                                                                                    \
  } while (false)

// The statement must throw onnxopt::Error.
#define CHECK_THROWS(statement)       \
  do {                                \
    bool thrown = false;              \
    try {                             \
      statement;                      \
    } catch (const onnxopt::Error&) { \
      thrown = true;                  \
    }                                 \
    CHECK(thrown && #statement);      \
  } while (false)
