//! `#[derive(Share)]`: a struct that may lie in memory shared between processes. See `folio::shm::Share`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Field, GenericParam, Member};

/// Implements `folio::shm::Share` for a struct of `Share` fields, with `repr(C)` or `repr(transparent)` and without padding;
/// beside it `Plain` if all fields are (and the struct is `Copy`), or `InPlace` if all fields are.
#[proc_macro_derive(Share)]
pub fn share(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let input = syn::parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(Error::into_compile_error).into()
}

fn expand(input: &DeriveInput) -> syn::Result<TokenStream> {
    let name = &input.ident;
    let fields = match &input.data {
        Data::Struct(data) => &data.fields,
        Data::Enum(_) => {
            let words = "an enum cannot be shared: another process may store what is none of its variants; use an integer";
            return Err(Error::new(name.span(), words));
        }
        Data::Union(_) => {
            let words = "a union cannot be shared: who reads it cannot know which field was stored";
            return Err(Error::new(name.span(), words));
        }
    };
    check_layout(input)?;
    let fields: Vec<_> = fields.iter().enumerate().map(|(index, field)| describe(index, field)).collect();
    if fields.is_empty() {
        return Err(Error::new(name.span(), "there is nothing to share in a struct without fields"));
    }
    let generics = &input.generics;
    let (impl_generics, type_generics, _) = generics.split_for_impl();
    let bounds = |of: &TokenStream| {
        let mut wheres = generics.clone();
        let wheres = wheres.make_where_clause();
        for param in generics.type_params() {
            let ident = &param.ident;
            wheres.predicates.push(syn::parse_quote!(#ident: #of));
        }
        wheres.clone()
    };
    let shares = bounds(&quote!(::folio::shm::Share));
    let types: Vec<_> = fields.iter().map(|field| field.ty).collect();
    let entries = fields.iter().map(|Described { text, member, ty }| {
        // What is wrong with a field is said where it is written.
        let print = quote_spanned!(ty.span()=> <#ty as ::folio::shm::Share>::FINGERPRINT);
        quote!((#text, ::core::mem::offset_of!(Self, #member), #print))
    });
    // Parameters tell types apart that have the same fields. What no field is called by stands for them.
    let parameters = generics.params.iter().filter_map(|param| match param {
        GenericParam::Type(param) => {
            let ident = &param.ident;
            Some(quote!(("type", 0, <#ident as ::folio::shm::Share>::FINGERPRINT)))
        }
        // An integer, a bool or a char: all of its bits, in two halves.
        GenericParam::Const(param) => {
            let ident = &param.ident;
            Some(quote!(("const", ((#ident as u128) >> 64) as usize, #ident as u128 as u64)))
        }
        GenericParam::Lifetime(_) => None,
    });
    let entries = parameters.chain(entries);
    let each_shares = fields.iter().map(|field| {
        let ty = field.ty;
        quote_spanned!(ty.span()=> shares::<#ty>();)
    });
    let text = name.to_string();
    let padding =
        "the struct has padding: add fields that fill it (`_fill: [u8; 4]`), or order the fields by size";
    // For a struct without parameters the checks are made where it is defined, and not only where it is used.
    let at_once = (generics.params.is_empty()).then(|| {
        quote! {
            const _: u64 = <#name as ::folio::shm::Share>::FINGERPRINT;
        }
    });
    // Bounds that may not hold, without an error where they do not: rustc looks at bounds with a lifetime only when asked.
    let if_all = |of: &TokenStream| {
        let mut wheres = shares.clone();
        for ty in &types {
            wheres.predicates.push(syn::parse_quote!(for<'late> #ty: #of));
        }
        wheres
    };
    let mut plain = if_all(&quote!(::folio::shm::Plain));
    plain.predicates.push(syn::parse_quote!(for<'late> #name #type_generics: ::core::marker::Copy));
    let in_place = if_all(&quote!(::folio::shm::InPlace));
    Ok(quote! {
        const _: () = {
            // A trait's, so that the fields' types may say `Self`.
            #[allow(dead_code)]
            trait EachFieldCanBeShared {
                fn each_field_can_be_shared();
            }
            impl #impl_generics EachFieldCanBeShared for #name #type_generics #shares {
                fn each_field_can_be_shared() {
                    fn shares<T: ::folio::shm::Share>() {}
                    #(#each_shares)*
                }
            }
            // SAFETY: a struct with a layout that is written down, without padding, of fields that can all be shared.
            unsafe impl #impl_generics ::folio::shm::Share for #name #type_generics #shares {
                const FINGERPRINT: u64 = {
                    assert!(
                        ::folio::shm::has_no_padding(
                            ::core::mem::size_of::<Self>(), &[#(::core::mem::size_of::<#types>()),*]
                        ),
                        #padding
                    );
                    ::folio::shm::fingerprint(#text, ::core::mem::size_of::<Self>(), &[#(#entries),*])
                };
            }
            // SAFETY: a struct of plain data is plain data; it has no padding, see FINGERPRINT.
            unsafe impl #impl_generics ::folio::shm::Plain for #name #type_generics #plain {}
            // SAFETY: all of its bytes are those of fields that are used in place.
            unsafe impl #impl_generics ::folio::shm::InPlace for #name #type_generics #in_place {}
            #at_once
        };
    })
}

struct Described<'a> {
    text: String,
    member: Member,
    ty: &'a syn::Type,
}

fn describe(index: usize, field: &Field) -> Described<'_> {
    let member = field.ident.clone().map_or_else(|| Member::Unnamed(index.into()), Member::Named);
    let text = field.ident.as_ref().map_or_else(|| index.to_string(), ToString::to_string);
    Described { text, member, ty: &field.ty }
}

fn check_layout(input: &DeriveInput) -> syn::Result<()> {
    let mut written = false;
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("repr")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("packed") {
                return Err(meta.error("a packed struct cannot be shared: its fields would not be aligned"));
            }
            written |= meta.path.is_ident("C") || meta.path.is_ident("transparent");
            if meta.input.peek(syn::token::Paren) {
                let inside;
                syn::parenthesized!(inside in meta.input);
                inside.parse::<TokenStream>()?;
            }
            Ok(())
        })?;
    }
    if written {
        return Ok(());
    }
    let words = "add #[repr(C)]: without it each build may lay the fields out in its own way";
    Err(Error::new(input.ident.span(), words))
}
