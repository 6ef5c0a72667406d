//! The grammar of the list of functions: makes a type of each line.

macro_rules! functions {
    ($(
        $(#[doc = $room_doc:literal])+
        mod $room:ident {
            $(
                $(#[doc = $doc:literal])+
                $name:ident = $word:literal $kind:ident $method:ident $path:literal
                    ($target:ty) $request:ty => $answer:ty;
            )+
        }
    )+) => {
        $(
            $(#[doc = $room_doc])+
            pub mod $room {
                #[allow(clippy::wildcard_imports, unused_imports, reason = "the table's own words")]
                use super::*;
                $(
                    $(#[doc = $doc])+
                    #[derive(Debug, Clone, Copy)]
                    pub enum $name {}
                    impl Function for $name {
                        const NAME: &'static str = concat!(stringify!($room), ".", $word);
                        const DOC: &'static [&'static str] = &[$($doc),+];
                        const KIND: Kind = Kind::$kind;
                        const METHOD: Method = Method::$method;
                        const PATH: &'static str = $path;
                        type Target = $target;
                        type Request = $request;
                        type Answer = $answer;
                    }
                )+
            }
        )+

        /// Visits all functions, in the order of the list.
        pub fn visit_all(visitor: &mut impl Visitor) {
            $($(visitor.visit::<$room::$name>();)+)+
        }
    };
}
