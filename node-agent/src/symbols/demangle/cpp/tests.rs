//! Expected texts are those of `c++filt -p -i`.

use super::*;

fn check(mangled: &str, shown: &str) {
    assert_eq!(demangle(mangled).as_deref(), Ok(shown), "{mangled}");
}

#[test]
fn functions_members_and_constructors() {
    check("_ZN3FooC1ERKSs", "Foo::Foo");
    check("_ZN3FooD0Ev", "Foo::~Foo");
    check("_ZNKSt6vectorIiSaIiEE4sizeEv", "std::vector<int, std::allocator<int> >::size");
    check("_ZN12_GLOBAL__N_13fooEv", "(anonymous namespace)::foo");
    check("_ZNR3Foo3barEv", "Foo::bar");
    check("_ZNO3Foo1fEv", "Foo::f");
    check("_ZNSaIcEC1Ev", "std::allocator<char>::allocator");
    check(
        "_ZNSsC1ERKSs",
        "std::basic_string<char, std::char_traits<char>, std::allocator<char> >::basic_string",
    );
    check("_ZNSolsEi", "std::ostream::operator<<");
    check("_ZNSi3getEv", "std::istream::get");
    check(
        "_ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEE6appendEPKc",
        "std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> >::append",
    );
    check("_ZN3fooB5cxx11Ev", "foo[abi:cxx11]");
    check("_ZN3std3fooINS_3BarEEEvv", "std::foo<std::Bar>");
    check("_ZSt4cout", "std::cout");
    check("_ZNUt_1fEv", "{unnamed type#1}::f");
    check("_ZN1AUt0_1fEv", "A::{unnamed type#2}::f");
}

#[test]
fn operators() {
    check(
        "_ZStlsISt11char_traitsIcEERSt13basic_ostreamIcT_ES5_PKc",
        "std::operator<< <std::char_traits<char> >",
    );
    check("_ZN3FoocvT_IiEEv", "Foo::operator int<int>");
    check("_ZN3FoocviEv", "Foo::operator int");
    check("_ZN5boostlsEii", "boost::operator<<");
    check("_ZN3FooixEi", "Foo::operator[]");
    check("_ZN3FoonwEm", "Foo::operator new");
    check("_ZN3FooclEv", "Foo::operator()");
    check("_Zli2_svPKc", "operator\"\" _s");
    check("_ZdlPvm", "operator delete");
    check("_Znwm", "operator new");
    check("_ZN1AdlEPv", "A::operator delete");
    check("_ZNSt8functionIFvRKSsEEaSERKS3_", "std::function<void (std::string const&)>::operator=");
}

#[test]
fn lambdas_and_local_names_show_the_function_around_them() {
    check("_ZZ3fooIiEvT_ENKUlvE_clEv", "foo<int>(int)::{lambda()#1}::operator()");
    check(
        "_ZZN3Foo3barEPFivEENKUliRKSsE0_clEiS2_",
        "Foo::bar(int (*)())::{lambda(int, std::string const&)#2}::operator()",
    );
    check("_ZZ1fIJidEEvDpOT_ENKUlvE_clEv", "f<int, double>(int&&, double&&)::{lambda()#1}::operator()");
    check("_ZZ4mainE1x_0", "main::x");
    check("_ZZ4mainEs", "main::string literal");
    check("_ZZ4mainE3Foo", "main::Foo");
    check("_ZNKUlvE_clEv", "{lambda()#1}::operator()");
    check(
        "_ZN4llvm12function_refIFvvEE11callback_fnIZNS_3fooEvEUlvE_EEvl",
        "llvm::function_ref<void ()>::callback_fn<llvm::foo()::{lambda()#1}>",
    );
    check(
        "_ZZZ3foovENKUlvE_clEvENKUlvE_clEv",
        "foo()::{lambda()#1}::operator()() const::{lambda()#1}::operator()",
    );
    check(
        "_ZNSt3mapIiSsE3Foo3barIZNS0_3bazEvEUlT_E_EEvS4_",
        "std::map<int, std::string>::Foo::bar<std::map<int, std::string>::baz()::{lambda(auto:1)#1}>",
    );
}

#[test]
fn template_arguments() {
    check("_ZN1AIXadL_Z3foovEEE1bEv", "A<&(foo())>::b");
    check("_ZN1AILb1ELi5ELj7ELc65ELln3EE1bEv", "A<true, 5, 7u, (char)65, -3l>::b");
    check("_ZN1AIPFviEPA10_iMS_FvvEKcE1bEv", "A<void (*)(int), int (*) [10], void (A::*)(), char const>::b");
    check("_ZN1AIJidPcEE1fEv", "A<int, double, char*>::f");
    check("_ZN1fIJEE1gEv", "f<>::g");
    check("_Z1fIJidEEvDpT_", "f<int, double>");
    check("_ZN1AIXsrSt7is_sameIiiE5valueEE1bEv", "A<std::is_same<int, int>::value>::b");
    check("_ZN1AIDnE1fEv", "A<decltype(nullptr)>::f");
    check("_ZN1AILN1B1CE1EE1fEv", "A<(B::C)1>::f");
    check("_ZN1AILZN1B1CEvEE1fEv", "A<B::C()>::f");
    check("_ZN1AIKFvvEE1fEv", "A<void () const>::f");
    check("_ZN1AIDTcl1fLi1EEEE1fEv", "A<decltype (f(1))>::f");
    check("_ZN1AIXeqstiLi4EEE1fEv", "A<(sizeof (int))==(4)>::f");
    check("_ZN1AIFvvERA3_KiOiE1fEv", "A<void (), int const (&) [3], int&&>::f");
    check("_Z3fooIXadL_ZN1A1fEvEEEvv", "foo<&A::f>");
    check("_ZN1AILd3ff0000000000000EE1fEv", "A<(double)[3ff0000000000000]>::f");
    check("_ZN1AICiE1fEv", "A<int _Complex>::f");
    check("_ZN1AIDv4_fE1fEv", "A<float __vector(4)>::f");
    check("_ZN1AIU8__vectoriE1fEv", "A<int __vector>::f");
    check("_ZN1AIDF16_DhE1fEv", "A<_Float16, half>::f");
    check("_ZN1AIMS_KFbvESaIS1_EE1fEv", "A<bool (A::*)() const, std::allocator<bool (A::*)() const> >::f");
    check("_ZN1AIXadL_ZNKS_1gEvEEE1fEv", "A<&(A::g() const)>::f");
    check("_ZN1AISt6vectorI1BJEEE1fEv", "A<std::vector<B> >::f");
    check("_ZN1AI1BIiEJEE1fEv", "A<B<int>>::f");
    check("_ZN1AIA2_A3_iE1fEv", "A<int [2][3]>::f");
}

#[test]
fn things_the_compiler_made() {
    check("_ZThn16_N3Foo3barEv", "non-virtual thunk to Foo::bar()");
    check("_ZTv0_n24_N3Foo3barEv", "virtual thunk to Foo::bar()");
    check("_ZTV3Foo", "vtable for Foo");
    check("_ZGVZ3foovE1x", "guard variable for foo()::x");
    check("_ZTWN3foo1xE", "TLS wrapper function for foo::x");
    check("_ZGTtNKSt9exceptionD1Ev", "transaction clone for std::exception::~exception() const");
    check("_ZTH1x", "TLS init function for x");
    check("_ZN3fooEv.cold", "foo");
    check("_Z3foov.constprop.0.cold", "foo");
}

#[test]
fn what_is_no_cpp_name_is_refused() {
    for name in [
        "",
        "main",
        "_Z",
        "_ZN",
        "_ZNE",
        "_Z3fo",
        "_Z99999999999foo",
        "_ZS_",
        "_ZN1AIT_E1fEv",
        "_ZNSt",
        "_ZDT",
    ] {
        assert_eq!(demangle(name), Err(NotDemangled), "{name}");
    }
}

/// Deterministic noise over the alphabet of the grammar: no panic, and the
/// fuel bounds the work.
#[test]
fn noise_neither_panics_nor_runs_for_long() {
    let tokens = [
        "N", "E", "I", "J", "X", "L", "Z", "S_", "S0_", "T_", "fp_", "Dp", "DT", "sr", "cl", "cv", "1a",
        "3foo", "St", "Ss", "K", "P", "R", "F", "M", "A1_", "i", "v", "Li0E", "Ul", "Ut_", "E_", "C1", "D1",
        "tl", "il", "qu", "L_Z", "Th0_", "TV", "d0_", "s", "B1x", "_", "n", "O", "U1a", "Dv4_", "99", "0",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % 1_000_003).unwrap_or(0)
    };
    for _ in 0..30_000 {
        let mut name = String::from("_Z");
        for _ in 0..random() % 40 {
            name.push_str(tokens[random() % tokens.len()]);
        }
        if let Ok(text) = demangle(&name) {
            assert!(text.len() <= MAX_TEXT);
        }
    }
}
