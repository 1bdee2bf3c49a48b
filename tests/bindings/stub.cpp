// A stand-in for TensorRT's shared objects, for checking call shape only: nothing is computed.
//
// TensorRT's Python bindings reach the library through a dozen C entry points and, from there, through virtual
// calls. Every object handed out here has a vtable of SLOTS entries that log the call and answer with what was
// set for it (stub_answer), else with another such object. So the real bindings run our code with their own
// checks of names, arities, types and keywords. Which slot a method has differs by version and is found by
// calling the method once and reading the log (drive.py), so nothing of NVIDIA's headers is repeated here.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>
#include <set>
#include <string>
#include <typeinfo>
#include <utility>

namespace {

constexpr int SLOTS = 400, IMPLS = 3;

struct Anonymous {
    virtual ~Anonymous() = default;  // gives the RTTI that pybind11 asks every polymorphic object for
};

// What C++ sees: a vtable pointer, then pointers to implementations (TensorRT's mImpl; layers have two).
struct Object {
    void** vtable;
    Object* impl[IMPLS];
    std::string path;
};

struct Answer {
    std::string bytes;  // of a struct returned in memory
    uintptr_t value;    // what is returned in a register
};

std::map<std::string, Object*> objects;
std::set<uintptr_t> known;
std::map<std::string, Answer> answers;  // "path#slot" or "path#slot(name)"
std::set<std::string> by_name;          // slots whose first argument, a name or a number, matters
std::string log_text;

void** the_vtable();

Object* object(std::string const& path, bool outer = true) {
    auto& found = objects[path];
    if (!found) {
        // The low byte of the address is not 0, so that as a bool it is true.
        found = new (static_cast<char*>(std::aligned_alloc(256, 256)) + 16) Object{the_vtable(), {}, path};
        known.insert(reinterpret_cast<uintptr_t>(found));
        for (int i = 0; outer && i < IMPLS; ++i) found->impl[i] = object(path + "." + std::to_string(i), false);
    }
    return found;
}

uintptr_t dispatch(int slot, uintptr_t a, uintptr_t b, uintptr_t c) {
    bool in_memory = !known.count(a) && known.count(b);  // the hidden pointer of a returned struct comes first
    Object* self = reinterpret_cast<Object*>(in_memory ? b : a);
    uintptr_t argument = in_memory ? c : b;
    std::string key = self->path + "#" + std::to_string(slot);
    log_text += key + "\n";
    if (by_name.count(key)) {
        bool is_index = argument < 4096;
        key += "(" + (is_index ? std::to_string(argument) : reinterpret_cast<char const*>(argument)) + ")";
    }
    auto found = answers.find(key);
    if (in_memory) {
        auto* out = reinterpret_cast<void*>(a);
        if (found == answers.end()) std::memset(out, 0, 4);
        else std::memcpy(out, found->second.bytes.data(), found->second.bytes.size());
        return a;
    }
    return found != answers.end() ? found->second.value : reinterpret_cast<uintptr_t>(object(key));
}

template <int N>
uintptr_t slot(uintptr_t a, uintptr_t b, uintptr_t c) {
    return dispatch(N, a, b, c);
}

template <int... N>
void fill(void** slots, std::integer_sequence<int, N...>) {
    ((slots[N] = reinterpret_cast<void*>(&slot<N>)), ...);
}

void** the_vtable() {
    static void* table[SLOTS + 2];
    if (!table[1]) {
        table[1] = const_cast<std::type_info*>(&typeid(Anonymous));
        fill(table + 2, std::make_integer_sequence<int, SLOTS>());
    }
    return table + 2;
}

}  // namespace

extern "C" {
void* createInferBuilder_INTERNAL(void*, int) { return object("builder"); }
void* createInferRuntime_INTERNAL(void*, int) { return object("runtime"); }
void* createInferRefitter_INTERNAL(void*, void*, int) { return object("refitter"); }
void* createNvOnnxParser_INTERNAL(void*, void*, int) { return object("parser"); }
void* createNvOnnxParserRefitter_INTERNAL(void*, void*, int) { return object("parser_refitter"); }
int getNvOnnxParserVersion() { return 0; }
void* getPluginRegistry() { return object("registry"); }
void* getBuilderPluginRegistry(int) { return object("registry"); }
bool initLibNvInferPlugins(void*, char const*) { return true; }

// What drive.py says and asks, by ctypes.
void stub_answer(char const* key, char const* name, uintptr_t value, char const* bytes, size_t size) {
    if (name) by_name.insert(key);
    std::string full = name ? std::string(key) + "(" + name + ")" : key;
    answers[full] = Answer{bytes ? std::string(bytes, size) : "", value};
}
char const* stub_log() { return log_text.c_str(); }
void stub_clear() { log_text.clear(); }
}

// TensorRT 8's bindings also name its old Caffe and UFF parsers.
namespace nvuffparser {
enum class FieldType : int32_t;
struct FieldMap {
    FieldMap(char const*, void const*, FieldType, int32_t);
};
FieldMap::FieldMap(char const*, void const*, FieldType, int32_t) {}
void* createUffParser() { return object("uff"); }
}  // namespace nvuffparser
namespace nvcaffeparser1 {
void* createCaffeParser() { return object("caffe"); }
void shutdownProtobufLibrary() {}
}  // namespace nvcaffeparser1
