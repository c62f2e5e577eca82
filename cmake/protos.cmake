# Generated protobuf and gRPC code under build/<preset>/gen/proto: included as "proto/store/v1/x.pb.h".
find_program(PROTOC protoc REQUIRED)
find_program(GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)

# tidegate_protos(<target> [GRPC] FILES a.proto ... DEPENDS other_target ...)
function(tidegate_protos target)
  cmake_parse_arguments(arg "GRPC" "" "FILES;LINK" ${ARGN})
  set(generated)
  foreach(file ${arg_FILES})
    string(REGEX REPLACE "\\.proto$" "" stem ${file})
    set(out ${CMAKE_BINARY_DIR}/gen/proto/${stem})
    set(outputs ${out}.pb.cc ${out}.pb.h)
    set(flags --cpp_out=${CMAKE_BINARY_DIR}/gen/proto)
    if(arg_GRPC)
      list(APPEND outputs ${out}.grpc.pb.cc ${out}.grpc.pb.h)
      list(APPEND flags --grpc_out=${CMAKE_BINARY_DIR}/gen/proto --plugin=protoc-gen-grpc=${GRPC_CPP_PLUGIN})
    endif()
    add_custom_command(
      OUTPUT ${outputs}
      COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/gen/proto
      COMMAND ${PROTOC} -I${CMAKE_SOURCE_DIR}/proto ${flags} ${CMAKE_SOURCE_DIR}/proto/${file}
      DEPENDS ${CMAKE_SOURCE_DIR}/proto/${file} VERBATIM)
    list(APPEND generated ${outputs})
  endforeach()
  add_library(${target} STATIC ${generated})
  set_target_properties(${target} PROPERTIES UNITY_BUILD OFF)
  target_compile_options(${target} PRIVATE -w -O1)
  target_link_libraries(${target} PUBLIC protobuf::libprotobuf ${arg_LINK})
  if(arg_GRPC)
    target_link_libraries(${target} PUBLIC gRPC::grpc++)
  endif()
endfunction()

tidegate_protos(tg_store_protos FILES store/v1/manifest.proto store/v1/profile.proto store/v1/control.proto
                                sentencepiece/model.proto)
tidegate_protos(tg_rpc_protos FILES google/rpc/status.proto google/rpc/error_details.proto)
tidegate_protos(tg_grpc_protos GRPC
  FILES tidegate/v1/generation.proto tidegate/v1/model.proto tidegate/v1/weight_store.proto
        grpc/health/v1/health.proto inference/grpc_service.proto xds/data/orca/v3/orca_load_report.proto
  LINK tg_rpc_protos)
tidegate_protos(tg_otlp_protos GRPC
  FILES opentelemetry/proto/common/v1/common.proto opentelemetry/proto/resource/v1/resource.proto
        opentelemetry/proto/trace/v1/trace.proto
        opentelemetry/proto/collector/trace/v1/trace_service.proto)
