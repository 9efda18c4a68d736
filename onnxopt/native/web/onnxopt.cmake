# The decoder as one WebAssembly module: what the reader needs of the sources, and web.cc. Built by zig; see
# tools/build_web.py. C++ exceptions are off: an error leaves the module as a JavaScript exception.
list(FILTER SOURCES EXCLUDE REGEX "/(capi|inner_|lent_|ort_|other_libraries|streamed)")
add_executable(onnxopt_web web/web.cc ${SOURCES} ${CODECS} $<TARGET_OBJECTS:zlib_inflate>)
set_target_properties(onnxopt_web PROPERTIES OUTPUT_NAME onnxopt SUFFIX .wasm POSITION_INDEPENDENT_CODE OFF)
target_include_directories(onnxopt_web PRIVATE src ${GENERATED})
target_include_directories(onnxopt_web SYSTEM PRIVATE ${ZLIB})
target_compile_definitions(onnxopt_web PRIVATE Z_PREFIX ONNXOPT_DECODER_ONLY)
target_compile_options(onnxopt_web PRIVATE ${WARNINGS} -O2 -msimd128 -fno-exceptions -fno-rtti
                       -fno-slp-vectorize)  # a twentieth faster, as in the native library
target_link_options(onnxopt_web PRIVATE -mexec-model=reactor -s)
