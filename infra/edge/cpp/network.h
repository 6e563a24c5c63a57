// What upscale.cpp needs of a runtime: network_ncnn.cpp and network_onnxruntime.cpp are two.

#pragma once

#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

// A mistake of the user, in one sentence.
struct Refused : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// An artifact as bundle.json describes it.
struct Artifact {
    std::filesystem::path graph;  // its main file
    std::string input, output;    // names in the graph
    int tile = 0, scale = 0;      // side of an LR tile in pixels, and the factor
};

// A loaded artifact.
class Network {
public:
    virtual ~Network() = default;

    // Maps an LR tile, the planes R, G and B of tile x tile values in [0, 1], to an HR tile, three
    // planes of (scale * tile)^2 values. Returns false where the artifact makes something else.
    virtual bool run(std::vector<float>& x_l, std::vector<float>& x_h) = 0;
};

// The runtime's name, and the artifact that it takes if the user names none.
extern const char RUNTIME[];
extern const char DEFAULT_TARGET[];

// Returns the files that an artifact of this runtime consists of.
std::vector<std::filesystem::path> files_of(const std::filesystem::path& graph);

// Loads an artifact. Throws Refused where its files are no network that the runtime can run.
std::unique_ptr<Network> load_network(const Artifact& artifact);
