package main

import (
	"fmt"
	"reflect"
	"sort"
)

// unexpected returns what decoded values hold that the SDK does not know: fields beyond its own, fields of another type,
// and values outside its enums. Each is a path such as ".actor.context", once.
func unexpected(values any) []string {
	found := map[string]bool{}
	walk(reflect.ValueOf(values), "", found)
	paths := make([]string, 0, len(found))
	for path := range found {
		paths = append(paths, path)
	}
	sort.Strings(paths)
	return paths
}

type enum interface{ IsKnown() bool }

type decoded interface{ IsInvalid() bool }

func walk(value reflect.Value, path string, found map[string]bool) {
	switch value.Kind() {
	case reflect.Slice:
		for at := range value.Len() {
			walk(value.Index(at), path, found)
		}
	case reflect.Struct:
		walkStruct(value, path, found)
	case reflect.String:
		if known, is := value.Interface().(enum); is && value.String() != "" && !known.IsKnown() {
			found[fmt.Sprintf("%s: not in the enum", path)] = true
		}
	}
}

func walkStruct(value reflect.Value, path string, found map[string]bool) {
	kind := value.Type()
	for at := range kind.NumField() {
		field := kind.Field(at)
		if field.Name == "JSON" {
			walkMetadata(value.Field(at), path, found)
		} else if name := field.Tag.Get("json"); field.IsExported() && name != "" {
			walk(value.Field(at), path+"."+name, found)
		}
	}
}

// walkMetadata reads what the SDK's decoder noted of each field beside the value.
func walkMetadata(metadata reflect.Value, path string, found map[string]bool) {
	kind := metadata.Type()
	for at := range kind.NumField() {
		field := kind.Field(at)
		if field.Name == "ExtraFields" {
			for _, name := range metadata.Field(at).MapKeys() {
				found[path+"."+name.String()] = true
			}
		} else if field.IsExported() {
			if each, is := metadata.Field(at).Interface().(decoded); is && each.IsInvalid() {
				found[fmt.Sprintf("%s.%s: of another type", path, field.Name)] = true
			}
		}
	}
}
