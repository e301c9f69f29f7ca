--- Words and openings that the project's English avoids, each with advice. A
-- pattern is matched against one piece of prose: a comment, a message, a line of
-- Markdown. `opening`: only where a sentence begins.
return {
  { opening = true, "What %l", "name the subject: a thing or a person" },
  { opening = true, "Who%l* %l", "name the person: \"a caller that …\"" },
  { opening = true, "Whether %l", "\"Return whether …\", \"Check that …\"" },
  { opening = true, "Where %l", "name the subject, or begin with \"If\" or \"In\"" },
  { opening = true, "That %l", "name the subject" },
  { "%f[%a][nN]or does%f[%A]", "no inversion: \"It does not … either\"" },
  { "%f[%a][nN]or do%f[%A]", "no inversion: \"They do not … either\"" },
  { "%f[%a][nN]or is%f[%A]", "no inversion: \"It is not … either\"" },
  { "%f[%a][nN]or are%f[%A]", "no inversion: \"They are not … either\"" },
  { "%f[%a]so is %f[%a]", "no inversion: \"… is too\"" },
  { "%f[%a]so does %f[%a]", "no inversion: \"… does too\"" },
  { "%f[%a]of it%f[%A]", "name the thing" },
  { "%f[%a]thereof%f[%A]", "name the thing" },
  { "as it is there%f[%A]", "name the place" },
  { "that there is not%f[%A]", "\"unknown\"" },
  { "%f[%a][Hh]e%f[%A]", "code is \"it\", a person \"they\" or \"you\"" },
  { "%f[%a]himself%f[%A]", "code is \"itself\", a person \"themselves\" or \"yourself\"" },
  { "%f[%a]is fine%f[%A]", "\"is allowed\"" },
  { "[Ss]ays whether", "\"checks that\", \"returns whether\"" },
}
