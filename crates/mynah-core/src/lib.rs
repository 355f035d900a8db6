//! The nouns, the pure machines and the traits of Mynah
