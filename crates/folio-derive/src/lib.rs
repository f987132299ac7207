//! `#[derive(Share)]`: a struct that may lie in memory shared between processes. See
//! `folio::shm::Share`.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Field, GenericParam, Member};

/// Implements `folio::shm::Share` for a struct of `Share` fields with `repr(C)` or
/// `repr(transparent)` and without padding. It also implements `Plain` if all fields are `Plain`
/// (and the struct is `Copy`), or `InPlace` if all fields are `InPlace`.
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
            let words = "an enum cannot be shared: another process may store a number that is none of its variants; use an integer";
            return Err(Error::new(name.span(), words));
        }
        Data::Union(_) => {
            let words = "a union cannot be shared: a reader cannot know which field was stored";
            return Err(Error::new(name.span(), words));
        }
    };
    check_layout(input)?;
    let fields: Vec<_> =
        fields.iter().enumerate().map(|(index, field)| describe(index, field)).collect();
    if fields.is_empty() {
        return Err(Error::new(
            name.span(),
            "there is nothing to share in a struct without fields",
        ));
    }
    let generics = &input.generics;
    let (impl_generics, type_generics, _) = generics.split_for_impl();
    let mut shares = generics.clone();
    let shares = shares.make_where_clause();
    for param in generics.type_params() {
        let ident = &param.ident;
        shares.predicates.push(syn::parse_quote!(#ident: ::folio::shm::Share));
    }
    // The tokens of a field's type do not prove its type: an attribute macro below the derive can
    // change the field, and a type macro can expand to another type at each use. So each fact comes
    // from the field itself. A pattern takes the field out: it goes through no `Deref`, as
    // `whole.field` might.
    let facts = fields.iter().map(|Described { text, member, span, .. }| {
        // An error about a field points at the field's source.
        quote_spanned! {*span=> {
            // The closure is outside of the unsafe block, so the compiler refuses the pattern for a
            // union.
            let pick: fn(&Self) -> &_ = |whole: &Self| {
                let Self { #member: part, .. } = whole;
                part
            };
            // SAFETY: the offset is that of the field that the pattern names.
            unsafe {
                ::folio::shm::derive::Field::<Self>::new(
                    #text,
                    ::folio::shm::derive::offset_of!(Self, #member),
                    pick,
                )
            }
        }}
    });
    // In the fingerprint a parameter is called `type` or `const`. These are keywords, so no field
    // has such a name.
    let parameters = generics.params.iter().filter_map(|param| match param {
        GenericParam::Type(param) => {
            let ident = &param.ident;
            Some(quote!(::folio::shm::derive::Parameter::of_type::<#ident>()))
        }
        GenericParam::Const(param) => {
            let ident = &param.ident;
            Some(quote!(::folio::shm::derive::Parameter::of_value(#ident as ::folio::shm::derive::u128)))
        }
        GenericParam::Lifetime(_) => None,
    });
    let text = name.to_string();
    // A struct without parameters is checked at its definition, and not only at its uses.
    let at_once = (generics.params.is_empty()).then(|| {
        quote! {
            const _: ::folio::shm::Fingerprint<#name> = <#name as ::folio::shm::Share>::FINGERPRINT;
        }
    });
    // Bounds that may not hold, and that are no error if they do not: rustc checks bounds with a
    // lifetime only at a use. They are made of tokens; code inside the impl to which they belong
    // proves that the fields keep them.
    let if_all = |of: &TokenStream| {
        let mut wheres = shares.clone();
        for Described { ty, .. } in &fields {
            wheres.predicates.push(syn::parse_quote!(for<'late> #ty: #of));
        }
        wheres
    };
    let mut plain = if_all(&quote!(::folio::shm::Plain));
    plain
        .predicates
        .push(syn::parse_quote!(for<'late> #name #type_generics: ::folio::shm::derive::Copy));
    let in_place = if_all(&quote!(::folio::shm::InPlace));
    let each_is_plain = each_is(&fields, &quote!(::folio::shm::Plain));
    let each_is_in_place = each_is(&fields, &quote!(::folio::shm::InPlace));
    Ok(quote! {
        const _: () = {
            // SAFETY: all fields can be shared, by their real types, and `of_struct` checks that
            // the struct has no other bytes.
            unsafe impl #impl_generics ::folio::shm::Share for #name #type_generics #shares {
                const FINGERPRINT: ::folio::shm::Fingerprint<Self> = {
                    let parameters = &[#(#parameters),*];
                    let fields = &[#(#facts),*];
                    // SAFETY: the pattern in the impls below names the same fields, and has no
                    // `..`, so there are no other fields.
                    unsafe { ::folio::shm::Fingerprint::of_struct(#text, parameters, fields) }
                };
            }
            // SAFETY: the function inside proves that each field is plain data. FINGERPRINT checks
            // that the struct has no padding.
            unsafe impl #impl_generics ::folio::shm::Plain for #name #type_generics #plain {
                fn __each_field_is_plain(whole: &Self) {
                    #each_is_plain
                }
            }
            // SAFETY: the function inside proves that each field is used in place. FINGERPRINT
            // checks that the struct has no other bytes.
            unsafe impl #impl_generics ::folio::shm::InPlace for #name #type_generics #in_place {
                fn __each_field_is_in_place(whole: &Self) {
                    #each_is_in_place
                }
            }
            #at_once
        };
    })
}

/// Statements that compile only if each field of `whole`, by its real type, implements the trait
/// `of`, and if there are no other fields.
fn each_is(fields: &[Described<'_>], of: &TokenStream) -> TokenStream {
    let parts: Vec<_> = (0..fields.len()).map(|index| format_ident!("__part_{index}")).collect();
    let members = fields.iter().map(|field| &field.member);
    let checks = fields
        .iter()
        .zip(&parts)
        .map(|(Described { span, .. }, part)| quote_spanned!(*span=> __is(#part);));
    quote! {
        fn __is<F: #of>(_: &F) {}
        let Self { #(#members: #parts),* } = whole;
        #(#checks)*
    }
}

struct Described<'a> {
    text: String,
    member: Member,
    ty: &'a syn::Type,
    /// The source position of the field's type.
    span: Span,
}

fn describe(index: usize, field: &Field) -> Described<'_> {
    let member = field.ident.clone().map_or_else(|| Member::Unnamed(index.into()), Member::Named);
    let text = field.ident.as_ref().map_or_else(|| index.to_string(), ToString::to_string);
    // Names in the generated code resolve as at the call of the derive, even if the type's tokens
    // come from elsewhere.
    let span = Span::call_site().located_at(field.ty.span());
    Described { text, member, ty: &field.ty, span }
}

fn check_layout(input: &DeriveInput) -> syn::Result<()> {
    let mut written = false;
    let is_repr = |path: &syn::Path| path.get_ident().is_some_and(|ident| ident.unraw() == "repr");
    for attribute in input.attrs.iter().filter(|attribute| is_repr(attribute.path())) {
        attribute.parse_nested_meta(|meta| {
            // `r#packed` is the same word. `Fingerprint::of_struct` detects by the layout what an
            // attribute macro adds.
            let word = meta.path.get_ident().map(|ident| ident.unraw().to_string());
            if word.as_deref() == Some("packed") {
                return Err(
                    meta.error("a packed struct cannot be shared: its fields would not be aligned")
                );
            }
            written |= matches!(word.as_deref(), Some("C" | "transparent"));
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
